/* A stage in C: `count` makes a table of the numbers 0 to rows-1. It shows that the header
 * alone is enough, and what a small stage looks like without the SDK. */
#include <stdlib.h>
#include <string.h>

#include "paraloom_stage.h"

static void release_error(struct paraloom_error* error) { error->release = NULL; }

static paraloom_status fail(struct paraloom_error* error, paraloom_status status, const char* text,
                            const char* detail) {
  error->message.ptr = text;
  error->message.len = strlen(text);
  error->detail.ptr = detail;
  error->detail.len = strlen(detail);
  error->release = release_error;
  return status;
}

/* The engine has checked the configuration: it is {"rows":N}. */
static int64_t rows_of(struct paraloom_str config) {
  int64_t rows = 0;
  for (size_t at = 0; at < config.len; at++)
    if (config.ptr[at] >= '0' && config.ptr[at] <= '9') rows = rows * 10 + (config.ptr[at] - '0');
  return rows;
}

/* ---- the schema: struct<n: int64 not null> ---- */

static void release_schema(struct ArrowSchema* schema) {
  for (int64_t at = 0; at < schema->n_children; at++) {
    if (schema->children[at]->release) schema->children[at]->release(schema->children[at]);
    free(schema->children[at]);
  }
  free(schema->children);
  schema->release = NULL;
}

static void make_schema(struct ArrowSchema* out) {
  memset(out, 0, sizeof *out);
  struct ArrowSchema* child = calloc(1, sizeof *child);
  child->format = "l";
  child->name = "n";
  child->release = release_schema;
  out->format = "+s";
  out->name = "";
  out->n_children = 1;
  out->children = calloc(1, sizeof *out->children);
  out->children[0] = child;
  out->release = release_schema;
}

/* ---- a batch ---- */

static void release_array(struct ArrowArray* array) {
  for (int64_t at = 0; at < array->n_children; at++) {
    if (array->children[at]->release) array->children[at]->release(array->children[at]);
    free(array->children[at]);
  }
  free(array->children);
  if (array->n_buffers == 2) free((void*)array->buffers[1]);
  free(array->buffers);
  array->release = NULL;
}

static void make_batch(struct ArrowArray* out, int64_t rows) {
  int64_t* values = malloc((size_t)(rows ? rows : 1) * sizeof *values);
  for (int64_t row = 0; row < rows; row++) values[row] = row;
  struct ArrowArray* child = calloc(1, sizeof *child);
  child->length = rows;
  child->n_buffers = 2;
  child->buffers = calloc(2, sizeof *child->buffers);
  child->buffers[1] = values;
  child->release = release_array;
  memset(out, 0, sizeof *out);
  out->length = rows;
  out->n_buffers = 1;
  out->buffers = calloc(1, sizeof *out->buffers);
  out->n_children = 1;
  out->children = calloc(1, sizeof *out->children);
  out->children[0] = child;
  out->release = release_array;
}

/* ---- the stage ---- */

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
  int64_t rows = rows_of(args->config_json);
  if (rows == 13)
    return fail(error, PARALOOM_ERR_CONFIG, "13 is not a number of rows",
                "{\"pointer\":\"/rows\",\"hint\":\"take 12 or 14\"}");
  struct count* count = calloc(1, sizeof *count);
  count->rows = rows;
  make_schema(&count->schema);
  out->n_outputs = 1;
  out->outputs = &count->schema;
  out->private_data = count;
  out->release = release_plan;
  return PARALOOM_OK;
}

static paraloom_status run(const struct paraloom_stage* self, struct paraloom_plan* plan,
                           const struct paraloom_run_args* args, struct paraloom_error* error) {
  (void)self;
  const struct count* count = plan->private_data;
  const struct paraloom_sink* sink = args->outputs[0]->sink;
  struct ArrowArray batch;
  make_batch(&batch, count->rows);
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
    sizeof library,       PARALOOM_ABI_MAJOR,    PARALOOM_ABI_MINOR, 1, PARALOOM_STR("count"),
    PARALOOM_STR("1.0.0"), PARALOOM_STR("cc"), stages};

PARALOOM_EXPORT const struct paraloom_library* paraloom_stages_v1(void);
PARALOOM_EXPORT const struct paraloom_library* paraloom_stages_v1(void) { return &library; }
