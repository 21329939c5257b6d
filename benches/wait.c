/* A map stage that takes its time and computes nothing, for benches/scaling.py: `ms` for every row. */
#include <time.h>

#include "paraloom_stage_helpers.h"

struct wait {
  struct ArrowSchema schema;
  int64_t ms;
};

static void release_plan(struct paraloom_plan* plan) {
  struct wait* wait = plan->private_data;
  if (wait->schema.release) wait->schema.release(&wait->schema);
  free(wait);
  plan->release = NULL;
}

static paraloom_status plan(const struct paraloom_stage* self, const struct paraloom_plan_args* args,
                            struct paraloom_plan* out, struct paraloom_error* error) {
  (void)self;
  (void)error;
  struct wait* wait = calloc(1, sizeof *wait);
  if (!wait) return PARALOOM_ERR_RESOURCE;
  wait->ms = paraloom_setting_integer(args->config_json, "ms", 0);
  out->n_outputs = 1;
  out->outputs = &wait->schema;
  out->private_data = wait;
  out->release = release_plan;
  return paraloom_copy_schema(args->inputs[0]->schema, &wait->schema, 0);
}

static paraloom_status open_worker(const struct paraloom_stage* self, struct paraloom_plan* plan,
                                   const struct paraloom_run_args* args, struct paraloom_worker* out,
                                   struct paraloom_error* error) {
  (void)self;
  (void)args;
  (void)error;
  out->private_data = plan->private_data;
  return PARALOOM_OK;
}

static paraloom_status map(struct paraloom_worker* worker, struct ArrowArray* batch,
                           const struct paraloom_sink* const* sinks, struct paraloom_error* error) {
  const struct wait* wait = worker->private_data;
  int64_t ms = wait->ms * batch->length;
  struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&time, NULL);
  return sinks[0]->push(sinks[0]->ctx, batch, error);
}

static void close_worker(struct paraloom_worker* worker) { (void)worker; }

static const struct paraloom_port rows_port = {sizeof rows_port, PARALOOM_PORT_TABLE, 0, 0,
                                               PARALOOM_STR("rows"), PARALOOM_STR("Any rows.")};
static const struct paraloom_port* const ports[] = {&rows_port};
static const struct paraloom_stage wait_stage = {
    .struct_size = sizeof wait_stage,
    .flags = PARALOOM_STAGE_BATCH_INVARIANT | PARALOOM_STAGE_KEEPS_ROWS,
    .name = PARALOOM_STR("wait"),
    .version = PARALOOM_STR("1.0.0"),
    .doc = PARALOOM_STR("Takes its time for every row."),
    .config_schema = PARALOOM_STR(
        "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
        "\"ms\":{\"type\":\"integer\",\"minimum\":0,\"default\":0,\"description\":\"Milliseconds for a row.\"}}}"),
    .n_inputs = 1,
    .inputs = ports,
    .n_outputs = 1,
    .outputs = ports,
    .plan = plan,
    .open = open_worker,
    .map = map,
    .close = close_worker,
    .part_rows = 1,
};
static const struct paraloom_stage* const stages[] = {&wait_stage};
static const struct paraloom_library library = {
    sizeof library,        PARALOOM_ABI_MAJOR, PARALOOM_ABI_MINOR, 1, PARALOOM_STR("wait"),
    PARALOOM_STR("1.0.0"), PARALOOM_STR("cc"), stages};

PARALOOM_EXPORT const struct paraloom_library* paraloom_stages_v1(void);
PARALOOM_EXPORT const struct paraloom_library* paraloom_stages_v1(void) { return &library; }
