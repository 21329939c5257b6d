/* Stages that misbehave as they are told: `unruly` and `unruly-whole` hand on their rows, unless {"how": …, "when": …} says
 * otherwise. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "paraloom_stage.h"

/* ---- a copy of a schema ---- */

static void release_schema(struct ArrowSchema* schema) {
  for (int64_t at = 0; at < schema->n_children; at++) {
    if (!schema->children[at]) continue;
    if (schema->children[at]->release) schema->children[at]->release(schema->children[at]);
    free(schema->children[at]);
  }
  free(schema->children);
  free((void*)schema->format);
  free((void*)schema->name);
  schema->release = NULL;
}

static void copy_schema(const struct ArrowSchema* from, struct ArrowSchema* to) {
  memset(to, 0, sizeof *to);
  to->format = strdup(from->format);
  to->name = strdup(from->name ? from->name : "");
  to->flags = from->flags;
  to->n_children = from->n_children;
  to->children = calloc((size_t)from->n_children + 1, sizeof *to->children);
  for (int64_t at = 0; at < from->n_children; at++) {
    to->children[at] = calloc(1, sizeof **to->children);
    copy_schema(from->children[at], to->children[at]);
  }
  to->release = release_schema;
}

/* ---- misbehaving ---- */

struct unruly {
  struct ArrowSchema schema;
  char config[256];
  const struct paraloom_host* host;
  /* It panicked, and is not used again. */
  int poisoned;
};

/* Those that were not released. */
static _Atomic int plans = 0;

static int overflow(volatile int depth) {
  volatile char room[4096];
  room[0] = (char)depth;
  return overflow(depth + 1) + room[0];
}

__attribute__((constructor)) static void load(void) {
  const char* how = getenv("UNRULY_LOAD");
  if (how && !strcmp(how, "flood"))
    for (int line = 0; line < 200000; line++) fprintf(stderr, "load %d\n", line);
  if (!how || strcmp(how, "hang")) return;
  fprintf(stderr, "process %d\n", (int)getpid());
  for (;;) sleep(1);
}

static void misbehave(const struct unruly* unruly, const char* when) {
  char wanted[32];
  snprintf(wanted, sizeof wanted, "\"when\":\"%s\"", when);
  if (!strstr(unruly->config, wanted)) return;
#define HOW(what) strstr(unruly->config, "\"how\":\"" what "\"")
  if (HOW("print")) {
    printf("to stdout\n");
    fflush(stdout);
    fprintf(stderr, "to stderr\n");
  }
  if (HOW("segfault")) {
    fprintf(stderr, "about to read what is not there\n");
    *(volatile int*)8 = 1;
  }
  if (HOW("abort")) abort();
  if (HOW("exit")) exit(0);
  if (HOW("overflow")) overflow(0);
  if (HOW("memory")) {
    /* What the allocator of a stage in Rust does where there is none left. */
    fprintf(stderr, "error: node `n`: out of memory: 7 bytes are needed, 5 are free\nhint: buy some\n");
    _exit(11);
  }
  if (HOW("fork and hang") && fork() == 0) {
    FILE* helper = fopen("helper", "w");
    fprintf(helper, "%d", (int)getpid());
    fclose(helper);
    for (;;) sleep(1);
  }
  if (HOW("fork and hang"))
    while (access("helper", F_OK)) usleep(1000);
  if (HOW("hang") || HOW("fork and hang")) {
    printf("process %d\n", (int)getpid());
    fflush(stdout);
    for (;;) sleep(1);
  }
  /* A process of its own that has all that this one has, and stays. */
  if (HOW("fork") || HOW("fork and crash"))
    if (fork() == 0) {
      printf("helper %d\n", (int)getpid());
      fflush(stdout);
      sleep(30);
      _exit(0);
    }
  if (HOW("fork and crash")) abort();
  if (HOW("pause")) {
    printf("paused\n");
    fflush(stdout);
    while (access("go", F_OK)) usleep(1000);
  }
  if (HOW("flood")) {
    for (int line = 0; line < 200000; line++) printf("line %d\n", line);
    fflush(stdout);
  }
  if (HOW("numbers"))
    for (uint64_t step = 0; step < 100000; step++) {
      unruly->host->metric(unruly->host->ctx, (struct paraloom_str)PARALOOM_STR("loss"), (double)step / 2, step);
      unruly->host->progress(unruly->host->ctx, step + 1, 100000, (struct paraloom_str)PARALOOM_STR("steps"));
    }
  if (HOW("long line")) {
    for (int byte = 0; byte < 3000000; byte++) putchar('x');
    putchar('\n');
    fflush(stdout);
  }
  if (HOW("say")) unruly->host->log(unruly->host->ctx, PARALOOM_LOG_ERROR, (struct paraloom_str)PARALOOM_STR("it panicked"));
  if (HOW("wait"))
    while (!unruly->host->is_cancelled(unruly->host->ctx)) usleep(1000);
#undef HOW
}

static int says(const struct unruly* unruly, const char* how) {
  char wanted[64];
  snprintf(wanted, sizeof wanted, "\"how\":\"%s\"", how);
  return strstr(unruly->config, wanted) != NULL;
}

/* What the ABI calls a batch and is none. The first column is text, the second has numbers; both have two rows. */
static struct ArrowArray* spoil(const struct unruly* unruly, struct ArrowArray* batch) {
#define HOW(what) says(unruly, what)
  static const int32_t falling[] = {0, 5, 2}, negative[] = {-4, 1, 2}, whole[] = {0, 1, 3};
  static const char not_utf8[] = "a\xff\xfe", cut_utf8[] = "a\xe2\x82";
  static const uint8_t none[8] = {0};
  static const void *no_buffers[8] = {0}, *buffers[3];
  struct ArrowArray *text = batch->children[0], *number = batch->children[1];
  if (HOW("push nothing")) return NULL;
  if (HOW("released")) batch->release = NULL;
  if (HOW("negative length")) batch->length = -1;
  if (HOW("huge length")) batch->length = INT64_MAX / 2;
  if (HOW("more rows")) batch->length += 1;
  if (HOW("negative offset")) batch->offset = -3;
  if (HOW("huge offset")) batch->offset = INT64_MAX;
  if (HOW("offset")) batch->offset = 1;
  if (HOW("null count")) batch->null_count = -7;
  if (HOW("null rows")) {
    batch->null_count = 2;
    buffers[0] = none;
    batch->buffers = buffers;
  }
  if (HOW("two buffers")) batch->n_buffers = 2;
  if (HOW("no buffers")) batch->buffers = NULL;
  if (HOW("fewer columns")) batch->n_children = 1;
  if (HOW("no columns")) batch->n_children = 0;
  if (HOW("more columns")) batch->n_children = 900;
  if (HOW("negative columns")) batch->n_children = -1;
  if (HOW("no children")) batch->children = NULL;
  if (HOW("no child")) batch->children[1] = NULL;
  if (HOW("dictionary")) batch->dictionary = text;
  if (HOW("text released")) text->release = NULL;
  if (HOW("text short")) text->length = 1;
  if (HOW("text negative")) text->length = -1;
  if (HOW("text offset")) text->offset = -1;
  if (HOW("text two buffers")) text->n_buffers = 2;
  if (HOW("text no buffers")) text->buffers = no_buffers;
  if (HOW("text buffers")) text->buffers = NULL;
  if (HOW("text child")) text->n_children = 1;
  if (HOW("text dictionary")) text->dictionary = number;
  if (HOW("text null count")) text->null_count = 3;
  if (HOW("number nulls")) {
    number->null_count = 1;
    buffers[0] = NULL;
    buffers[1] = number->buffers[1];
    number->buffers = buffers;
  }
  if (HOW("number null count")) {
    number->null_count = 1;
    buffers[0] = none;
    buffers[1] = number->buffers[1];
    number->buffers = buffers;
  }
  int null = HOW("null");
  if (HOW("falling") || HOW("negative text") || HOW("utf8") || HOW("cut utf8") || null) {
    buffers[0] = null ? none : NULL;
    buffers[1] = HOW("falling") ? falling : HOW("negative text") ? negative : whole;
    buffers[2] = HOW("cut utf8") ? cut_utf8 : HOW("utf8") ? not_utf8 : "abc";
    text->buffers = buffers;
    if (null) text->null_count = 2;
  }
  for (int64_t at = 0; HOW("same ids") && at < unruly->schema.n_children; at++) {
    if (strcmp(unruly->schema.children[at]->name, "_id")) continue;
    static const int32_t ends[] = {0, 3, 6};
    buffers[0] = NULL;
    buffers[1] = ends;
    buffers[2] = "oneone";
    batch->children[at]->offset = 0;
    batch->children[at]->buffers = buffers;
  }
  return batch;
#undef HOW
}

/* Pushes rows as it was told to; `cancelled` and `status` are for the caller to return. */
static paraloom_status push(const struct unruly* unruly, struct ArrowArray* batch,
                            const struct paraloom_sink* sink, struct paraloom_error* error) {
  struct paraloom_error ignored = {.struct_size = sizeof ignored};
  int ignores = strstr(unruly->config, "\"when\":\"ignored\"") != NULL;
  batch = spoil(unruly, batch);
  paraloom_status status = sink->push(sink->ctx, batch, ignores ? &ignored : error);
  if (ignores && ignored.release) ignored.release(&ignored);
  if (says(unruly, "cancelled")) return PARALOOM_ERR_CANCELLED;
  if (says(unruly, "status")) return 77;
  return ignores ? PARALOOM_OK : status;
}

/* Whether a text of the rows has a `!`. */
static int has_mark(const struct ArrowArray* rows) {
  for (int64_t column = 0; column < rows->n_children; column++) {
    const struct ArrowArray* texts = rows->children[column];
    if (texts->n_buffers != 3 || texts->length == 0) continue;
    const int32_t* ends = (const int32_t*)texts->buffers[1] + texts->offset;
    const char* data = texts->buffers[2];
    if (memchr(data + ends[0], '!', (size_t)(ends[texts->length] - ends[0]))) return 1;
  }
  return 0;
}

/* ---- the stage ---- */

static void release_plan(struct paraloom_plan* plan) {
  struct unruly* unruly = plan->private_data;
  if (unruly->schema.release) unruly->schema.release(&unruly->schema);
  plans--;
  free(unruly);
  plan->release = NULL;
}

static paraloom_status plan(const struct paraloom_stage* self, const struct paraloom_plan_args* args,
                            struct paraloom_plan* out, struct paraloom_error* error) {
  (void)self;
  struct unruly* unruly = calloc(1, sizeof *unruly);
  plans++;
  snprintf(unruly->config, sizeof unruly->config, "%.*s", (int)args->config_json.len, args->config_json.ptr);
  misbehave(unruly, "plan");
  if (strstr(unruly->config, "\"when\":\"plan\"") && says(unruly, "cancelled")) {
    plans--;
    free(unruly);
    return PARALOOM_ERR_CANCELLED;
  }
  copy_schema(args->inputs[0]->schema, &unruly->schema);
  out->n_outputs = says(unruly, "no outputs") ? 0 : says(unruly, "two outputs") ? 2 : 1;
  out->outputs = says(unruly, "null outputs") ? NULL : &unruly->schema;
  struct ArrowSchema* schema = &unruly->schema;
  if (says(unruly, "no schema")) schema->release = NULL;
  if (says(unruly, "no format")) schema->children[0]->format = NULL;
  if (says(unruly, "unknown format")) schema->children[0]->format = strdup("?");
  if (says(unruly, "no struct")) schema->format = strdup("l");
  if (says(unruly, "bad name")) schema->children[0]->name = strdup("\xff");
  if (says(unruly, "no child schema")) schema->children[0] = NULL;
  if (says(unruly, "two of a name")) schema->children[0]->name = strdup(schema->children[1]->name);
  if (says(unruly, "list without child")) schema->children[0]->format = strdup("+l");
  if (says(unruly, "no width")) schema->children[0]->format = strdup("w:0");
  if (says(unruly, "interval")) schema->children[0]->format = strdup("tin");
  if (says(unruly, "zone")) schema->children[0]->format = strdup("tss:Nowhere/Nope");
  if (says(unruly, "fickle")) {
    static char now[40];
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    snprintf(now, sizeof now, "%ld.%ld", (long)time.tv_sec, time.tv_nsec);
    out->fingerprint.ptr = now;
    out->fingerprint.len = strlen(now);
  }
  if (says(unruly, "book")) {
    static char book[1 << 20];
    memset(book, 'x', sizeof book);
    error->message.ptr = book;
    error->message.len = sizeof book;
    out->private_data = unruly;
    out->release = release_plan;
    return PARALOOM_ERR_DATA;
  }
  out->private_data = unruly;
  out->release = release_plan;
  return PARALOOM_OK;
}

static paraloom_status open_worker(const struct paraloom_stage* self, struct paraloom_plan* plan,
                                   const struct paraloom_run_args* args, struct paraloom_worker* out,
                                   struct paraloom_error* error) {
  (void)self;
  (void)error;
  struct unruly* unruly = plan->private_data;
  unruly->host = args->host;
  misbehave(unruly, "open");
  if (strstr(unruly->config, "\"when\":\"open\"") && says(unruly, "cancelled"))
    return PARALOOM_ERR_CANCELLED;
  out->private_data = unruly;
  return PARALOOM_OK;
}

static paraloom_status map(struct paraloom_worker* worker, struct ArrowArray* batch,
                           const struct paraloom_sink* const* sinks, struct paraloom_error* error) {
  const struct unruly* unruly = worker->private_data;
  misbehave(unruly, "map");
  if (has_mark(batch)) misbehave(unruly, "mark");
  /* As a stage in Rust that panics: whatever comes next is refused. */
  if (says(unruly, "panic") && (unruly->poisoned || has_mark(batch))) {
    struct unruly* panicked = worker->private_data;
    error->message = panicked->poisoned
                         ? (struct paraloom_str)PARALOOM_STR("it panicked before")
                         : (struct paraloom_str)PARALOOM_STR("it panicked now");
    panicked->poisoned = 1;
    batch->release(batch);
    return PARALOOM_ERR_PANIC;
  }
  static int calls = 0;
  calls++;
  /* Not what the flags say: nothing comes of a row that is alone, or of rows that come again. */
  int lonely = strstr(unruly->config, "lonely") && batch->length == 1;
  int moody = strstr(unruly->config, "moody") && calls % 2 == 0;
  if (lonely || moody) {
    batch->release(batch);
    return PARALOOM_OK;
  }
  if (unruly->host->is_cancelled(unruly->host->ctx)) {
    batch->release(batch);
    return PARALOOM_ERR_CANCELLED;
  }
  return push(unruly, batch, sinks[0], error);
}

static paraloom_status run(const struct paraloom_stage* self, struct paraloom_plan* plan,
                           const struct paraloom_run_args* args, struct paraloom_error* error) {
  (void)self;
  struct unruly* unruly = plan->private_data;
  unruly->host = args->host;
  misbehave(unruly, "run");
  struct ArrowArrayStream rows = *args->inputs[0]->stream;
  args->inputs[0]->stream->release = NULL;
  paraloom_status status = PARALOOM_OK;
  static int runs = 0;
  runs++;
  for (int batches = 0; status == PARALOOM_OK; batches++) {
    struct ArrowArray batch;
    if (rows.get_next(&rows, &batch)) {
      status = PARALOOM_ERR_IO;
    } else if (batch.release && ((says(unruly, "batches") && batches > 0) ||
                                 (says(unruly, "moody") && runs > 1))) {
      /* Not what is relied on: what comes out depends on how the rows come, or on earlier runs. */
      batch.release(&batch);
    } else if (batch.release) {
      status = push(unruly, &batch, args->outputs[0]->sink, error);
    } else {
      break;
    }
  }
  rows.release(&rows);
  return status;
}

static void close_worker(struct paraloom_worker* worker) {
  /* What was opened is closed while its plan is there, whatever the engine drops first. */
  if (plans == 0) abort();
  misbehave(worker->private_data, "close");
}

static const struct paraloom_port rows_port = {sizeof rows_port, PARALOOM_PORT_TABLE, 0, 0,
                                               PARALOOM_STR("rows"), PARALOOM_STR("Any rows.")};
static const struct paraloom_port* const ports[] = {&rows_port};
#define SETTINGS \
  PARALOOM_STR("{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{" \
               "\"how\":{\"type\":\"string\",\"default\":\"not\"},\"when\":{\"type\":\"string\",\"default\":\"never\"}}}")
static const struct paraloom_stage unruly_stage = {
    .struct_size = sizeof unruly_stage,
    .flags = PARALOOM_STAGE_BATCH_INVARIANT,
    .name = PARALOOM_STR("unruly"),
    .version = PARALOOM_STR("1.0.0"),
    .doc = PARALOOM_STR("Hands on its rows, or misbehaves."),
    .config_schema = SETTINGS,
    .n_inputs = 1,
    .inputs = ports,
    .n_outputs = 1,
    .outputs = ports,
    .plan = plan,
    .open = open_worker,
    .map = map,
    .close = close_worker,
    .part_rows = 4096,
};
static const struct paraloom_stage whole_stage = {
    /* As a library of before 1.4 has it. */
    .struct_size = offsetof(struct paraloom_stage, part_rows),
    .name = PARALOOM_STR("unruly-whole"),
    .version = PARALOOM_STR("1.0.0"),
    .doc = PARALOOM_STR("Hands on its rows, or misbehaves."),
    .config_schema = SETTINGS,
    .n_inputs = 1,
    .inputs = ports,
    .n_outputs = 1,
    .outputs = ports,
    .plan = plan,
    .run = run,
    .part_rows = 77,
};
static const struct paraloom_stage* const stages[] = {&unruly_stage, &whole_stage};
static const struct paraloom_library library = {
    sizeof library,        PARALOOM_ABI_MAJOR, PARALOOM_ABI_MINOR, 2, PARALOOM_STR("unruly"),
    PARALOOM_STR("1.0.0"), PARALOOM_STR("cc"), stages};

/* The library as UNRULY_TABLE says. */
static const struct paraloom_library* wrong(const char* how) {
#define TABLE(what) (strcmp(how, what) == 0)
  static struct paraloom_stage stage;
  static const struct paraloom_stage* const both[] = {&stage, &whole_stage};
  static struct paraloom_library wrong;
  static const struct paraloom_port* const twice[] = {&rows_port, &rows_port};
  stage = unruly_stage;
  wrong = library;
  wrong.stages = both;
  if (TABLE("name")) stage.name = (struct paraloom_str)PARALOOM_STR("Un\033[2Jruly");
  if (TABLE("utf8")) stage.name = (struct paraloom_str)PARALOOM_STR("un\xff");
  if (TABLE("twice")) stage.name = whole_stage.name;
  if (TABLE("ports")) {
    stage.inputs = twice;
    stage.n_inputs = 2;
  }
  if (TABLE("schema")) stage.config_schema = (struct paraloom_str)PARALOOM_STR("\"text\"");
  if (TABLE("keyword"))
    stage.config_schema = (struct paraloom_str)PARALOOM_STR(
        "{\"type\":\"object\",\"properties\":{\"how\":{\"type\":\"string\",\"format\":\"email\"}}}");
  if (TABLE("cut")) stage.struct_size = 40;
  if (TABLE("null")) stage.inputs = NULL;
  return &wrong;
#undef TABLE
}

PARALOOM_EXPORT const struct paraloom_library* paraloom_stages_v1(void);
PARALOOM_EXPORT const struct paraloom_library* paraloom_stages_v1(void) {
  const char* how = getenv("UNRULY_TABLE");
  return how ? wrong(how) : &library;
}
