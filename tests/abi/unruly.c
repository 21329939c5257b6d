/* A stage that misbehaves as it is told: `unruly` hands on its rows, unless {"how": …, "when": …} says otherwise. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "paraloom_stage.h"

/* ---- a copy of a schema ---- */

static void release_schema(struct ArrowSchema* schema) {
  for (int64_t at = 0; at < schema->n_children; at++) {
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
};

static int overflow(volatile int depth) {
  volatile char room[4096];
  room[0] = (char)depth;
  return overflow(depth + 1) + room[0];
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
  if (HOW("hang")) {
    printf("process %d\n", (int)getpid());
    fflush(stdout);
    for (;;) sleep(1);
  }
  /* A process of its own that has all that this one has, and stays. */
  if (HOW("fork") || HOW("fork and crash"))
    if (fork() == 0) {
      sleep(30);
      _exit(0);
    }
  if (HOW("fork and crash")) abort();
  if (HOW("pause")) {
    printf("paused\n");
    fflush(stdout);
    while (access("go", F_OK)) usleep(1000);
  }
  if (HOW("wait"))
    while (!unruly->host->is_cancelled(unruly->host->ctx)) usleep(1000);
#undef HOW
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
  free(unruly);
  plan->release = NULL;
}

static paraloom_status plan(const struct paraloom_stage* self, const struct paraloom_plan_args* args,
                            struct paraloom_plan* out, struct paraloom_error* error) {
  (void)self;
  (void)error;
  struct unruly* unruly = calloc(1, sizeof *unruly);
  snprintf(unruly->config, sizeof unruly->config, "%.*s", (int)args->config_json.len, args->config_json.ptr);
  misbehave(unruly, "plan");
  copy_schema(args->inputs[0]->schema, &unruly->schema);
  out->n_outputs = 1;
  out->outputs = &unruly->schema;
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
  out->private_data = unruly;
  return PARALOOM_OK;
}

static paraloom_status map(struct paraloom_worker* worker, struct ArrowArray* batch,
                           const struct paraloom_sink* const* sinks, struct paraloom_error* error) {
  const struct unruly* unruly = worker->private_data;
  misbehave(unruly, "map");
  if (has_mark(batch)) misbehave(unruly, "mark");
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
  return sinks[0]->push(sinks[0]->ctx, batch, error);
}

static void close_worker(struct paraloom_worker* worker) {
  misbehave(worker->private_data, "close");
}

static const struct paraloom_port rows_port = {sizeof rows_port, PARALOOM_PORT_TABLE, 0, 0,
                                               PARALOOM_STR("rows"), PARALOOM_STR("Any rows.")};
static const struct paraloom_port* const ports[] = {&rows_port};
static const struct paraloom_stage unruly_stage = {
    .struct_size = sizeof unruly_stage,
    .flags = PARALOOM_STAGE_BATCH_INVARIANT,
    .name = PARALOOM_STR("unruly"),
    .version = PARALOOM_STR("1.0.0"),
    .doc = PARALOOM_STR("Hands on its rows, or misbehaves."),
    .config_schema = PARALOOM_STR(
        "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
        "\"how\":{\"type\":\"string\",\"default\":\"not\"},\"when\":{\"type\":\"string\",\"default\":\"never\"}}}"),
    .n_inputs = 1,
    .inputs = ports,
    .n_outputs = 1,
    .outputs = ports,
    .plan = plan,
    .open = open_worker,
    .map = map,
    .close = close_worker,
};
static const struct paraloom_stage* const stages[] = {&unruly_stage};
static const struct paraloom_library library = {
    sizeof library,        PARALOOM_ABI_MAJOR, PARALOOM_ABI_MINOR, 1, PARALOOM_STR("unruly"),
    PARALOOM_STR("1.0.0"), PARALOOM_STR("cc"), stages};

PARALOOM_EXPORT const struct paraloom_library* paraloom_stages_v1(void);
PARALOOM_EXPORT const struct paraloom_library* paraloom_stages_v1(void) { return &library; }
