/* A whole stage in C: `count` makes a table of the numbers 0 to rows-1. It shows that the headers
 * alone are enough, and what a small stage looks like without the SDK. */
#include "paraloom_stage_helpers.h"

struct count {
  int64_t rows;
  struct ArrowSchema schema;
};

static void release_plan(struct paraloom_plan* plan) {
  struct count* count = plan->private_data;
  if (count->schema.release) count->schema.release(&count->schema);
  free(count);
  plan->release = NULL;
}

static paraloom_status plan(const struct paraloom_stage* self, const struct paraloom_plan_args* args,
                            struct paraloom_plan* out, struct paraloom_error* error) {
  (void)self;
  /* The engine has checked the configuration. */
  int64_t rows = paraloom_setting_integer(args->config_json, "rows", 0);
  if (rows == 13)
    return paraloom_fail(error, PARALOOM_ERR_CONFIG, "{\"pointer\":\"/rows\",\"hint\":\"take 12 or 14\"}",
                         "%d is not a number of rows", (int)rows);
  struct count* count = calloc(1, sizeof *count);
  if (!count) return PARALOOM_ERR_RESOURCE;
  count->rows = rows;
  out->n_outputs = 1;
  out->outputs = &count->schema;
  out->private_data = count;
  out->release = release_plan;
  paraloom_status status = paraloom_table(&count->schema, 1);
  if (status == PARALOOM_OK) status = paraloom_column(&count->schema, 0, "n", "l", 0);
  return status;
}

static paraloom_status run(const struct paraloom_stage* self, struct paraloom_plan* plan,
                           const struct paraloom_run_args* args, struct paraloom_error* error) {
  (void)self;
  const struct count* count = plan->private_data;
  const struct paraloom_sink* sink = args->outputs[0]->sink;
  struct ArrowArray batch;
  paraloom_status status = paraloom_batch(&batch, count->rows, 1);
  if (status != PARALOOM_OK) return status;
  int64_t* values = paraloom_fixed_column(&batch, 0);
  if (!values) {
    batch.release(&batch);
    return PARALOOM_ERR_RESOURCE;
  }
  for (int64_t row = 0; row < count->rows; row++) values[row] = row;
  args->host->progress(args->host->ctx, (uint64_t)count->rows, (uint64_t)count->rows,
                       (struct paraloom_str)PARALOOM_STR("rows"));
  return sink->push(sink->ctx, &batch, error);
}

static const struct paraloom_port rows_port = {sizeof rows_port, PARALOOM_PORT_TABLE, 0, 0,
                                               PARALOOM_STR("rows"), PARALOOM_STR("The numbers.")};
static const struct paraloom_port* const outputs[] = {&rows_port};
static const struct paraloom_stage count_stage = {
    .struct_size = sizeof count_stage,
    .name = PARALOOM_STR("count"),
    .version = PARALOOM_STR("1.0.0"),
    .doc = PARALOOM_STR("Makes a table of numbers."),
    .config_schema = PARALOOM_STR(
        "{\"type\":\"object\",\"required\":[\"rows\"],\"additionalProperties\":false,"
        "\"properties\":{\"rows\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":100000,"
        "\"description\":\"How many numbers.\"}}}"),
    .n_outputs = 1,
    .outputs = outputs,
    .plan = plan,
    .run = run,
};
static const struct paraloom_stage* const stages[] = {&count_stage};
static const struct paraloom_library library = {
    sizeof library,        PARALOOM_ABI_MAJOR, PARALOOM_ABI_MINOR, 1, PARALOOM_STR("count"),
    PARALOOM_STR("1.0.0"), PARALOOM_STR("cc"), stages};

PARALOOM_EXPORT const struct paraloom_library* paraloom_stages_v1(void);
PARALOOM_EXPORT const struct paraloom_library* paraloom_stages_v1(void) { return &library; }
