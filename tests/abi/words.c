/* A map stage in C: `words` adds two columns, the number of words of a text and the text with
 * something in front of it. */
#include "paraloom_stage_helpers.h"

struct words {
  struct ArrowSchema schema;
  int64_t text; /* The index of the column. */
  char* prefix;
};

static void release_plan(struct paraloom_plan* plan) {
  struct words* words = plan->private_data;
  if (words->schema.release) words->schema.release(&words->schema);
  free(words->prefix);
  free(words);
  plan->release = NULL;
}

static paraloom_status plan(const struct paraloom_stage* self, const struct paraloom_plan_args* args,
                            struct paraloom_plan* out, struct paraloom_error* error) {
  (void)self;
  const struct ArrowSchema* rows = args->inputs[0]->schema;
  struct words* words = calloc(1, sizeof *words);
  if (!words) return PARALOOM_ERR_RESOURCE;
  out->n_outputs = 1;
  out->outputs = &words->schema;
  out->private_data = words;
  out->release = release_plan;
  char* column = paraloom_setting_text(args->config_json, "column", "text");
  words->prefix = paraloom_setting_text(args->config_json, "prefix", "");
  if (!column || !words->prefix) {
    free(column);
    return PARALOOM_ERR_RESOURCE;
  }
  words->text = paraloom_find_column(rows, column);
  paraloom_status status = PARALOOM_OK;
  if (words->text < 0)
    status = paraloom_fail(error, PARALOOM_ERR_SCHEMA, "{\"pointer\":\"/column\"}",
                           "`rows` has no column `%s`", column);
  else if (strcmp(rows->children[words->text]->format, "u") != 0)
    status = paraloom_fail(error, PARALOOM_ERR_SCHEMA, "{\"pointer\":\"/column\"}",
                           "column `%s` is no text", column);
  free(column);
  int64_t count = rows->n_children;
  if (status == PARALOOM_OK) status = paraloom_copy_schema(rows, &words->schema, 2);
  if (status == PARALOOM_OK) status = paraloom_column(&words->schema, count, "words", "l", 0);
  if (status == PARALOOM_OK) status = paraloom_column(&words->schema, count + 1, "said", "u", 0);
  return status;
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

static int64_t words_of(struct paraloom_str text) {
  int64_t words = 0;
  int inside = 0;
  for (size_t at = 0; at < text.len; at++) {
    int is_space = text.ptr[at] == ' ' || text.ptr[at] == '\n' || text.ptr[at] == '\t';
    words += !is_space && !inside;
    inside = !is_space;
  }
  return words;
}

/* Makes the two columns behind those of `batch`. */
static paraloom_status add_columns(const struct words* words, const struct ArrowArray* batch,
                                   struct ArrowArray* out) {
  int64_t* counts = paraloom_fixed_column(out, batch->n_children);
  if (!counts) return PARALOOM_ERR_RESOURCE;
  size_t prefix = strlen(words->prefix), size = 1;
  for (int64_t row = 0; row < batch->length; row++) {
    struct paraloom_str text = paraloom_text(batch, words->text, row);
    counts[row] = words_of(text);
    size += prefix + text.len;
  }
  int32_t* ends = calloc((size_t)batch->length + 1, sizeof *ends);
  char* data = malloc(size);
  if (!ends || !data || size > INT32_MAX) {
    free(ends);
    free(data);
    return PARALOOM_ERR_RESOURCE;
  }
  int32_t end = 0;
  for (int64_t row = 0; row < batch->length; row++) {
    struct paraloom_str text = paraloom_text(batch, words->text, row);
    memcpy(data + end, words->prefix, prefix);
    if (text.len > 0) memcpy(data + end + prefix, text.ptr, text.len);
    end += (int32_t)(prefix + text.len);
    ends[row + 1] = end;
  }
  return paraloom_text_column(out, batch->n_children + 1, ends, data);
}

static paraloom_status map(struct paraloom_worker* worker, struct ArrowArray* batch,
                           const struct paraloom_sink* const* sinks, struct paraloom_error* error) {
  struct ArrowArray out;
  paraloom_status status = paraloom_batch(&out, batch->length, batch->n_children + 2);
  if (status == PARALOOM_OK) {
    status = add_columns(worker->private_data, batch, &out);
    if (status == PARALOOM_OK) {
      paraloom_move_columns(batch, &out);
      return sinks[0]->push(sinks[0]->ctx, &out, error);
    }
    out.release(&out);
  }
  batch->release(batch);
  return status;
}

static void close_worker(struct paraloom_worker* worker) { (void)worker; }

static const struct paraloom_port rows_port = {sizeof rows_port, PARALOOM_PORT_TABLE, 0, 0,
                                               PARALOOM_STR("rows"), PARALOOM_STR("Rows with a text.")};
static const struct paraloom_port* const ports[] = {&rows_port};
static const struct paraloom_stage words_stage = {
    .struct_size = sizeof words_stage,
    .flags = PARALOOM_STAGE_BATCH_INVARIANT | PARALOOM_STAGE_KEEPS_ROWS,
    .name = PARALOOM_STR("words"),
    .version = PARALOOM_STR("1.0.0"),
    .doc = PARALOOM_STR("Counts the words of a text."),
    .config_schema = PARALOOM_STR(
        "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
        "\"column\":{\"type\":\"string\",\"default\":\"text\",\"description\":\"The text.\"},"
        "\"prefix\":{\"type\":\"string\",\"default\":\"\",\"description\":\"What is put in front of it.\"}}}"),
    .n_inputs = 1,
    .inputs = ports,
    .n_outputs = 1,
    .outputs = ports,
    .plan = plan,
    .open = open_worker,
    .map = map,
    .close = close_worker,
    .part_rows = 8192,
};
static const struct paraloom_stage* const stages[] = {&words_stage};
static const struct paraloom_library library = {
    sizeof library,        PARALOOM_ABI_MAJOR, PARALOOM_ABI_MINOR, 1, PARALOOM_STR("words"),
    PARALOOM_STR("1.0.0"), PARALOOM_STR("cc"), stages};

PARALOOM_EXPORT const struct paraloom_library* paraloom_stages_v1(void);
PARALOOM_EXPORT const struct paraloom_library* paraloom_stages_v1(void) { return &library; }
