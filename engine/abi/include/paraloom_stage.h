/* The paraloom stage ABI, version 1.4.
 *
 * A stage library is a shared library that exports one symbol,
 * `paraloom_stages_v1`. It returns a static table that describes the stages the
 * library offers. The engine reads the table, asks a stage to plan (pure and
 * cheap), and then to work. Only Arrow C structures, UTF-8 strings and directory
 * paths cross this boundary. docs/abi.md is the prose that goes with this file.
 *
 * Rules that hold everywhere:
 *  - Whoever allocates, frees. Nothing is freed by the other side.
 *  - Every table starts with its size. A field added after 1.0 is read only if
 *    PARALOOM_HAS says that the other side knows it. Fields are only appended.
 *  - Reserved fields are zero and ignored.
 *  - No exception, panic or longjmp may leave a function of this ABI.
 *  - A library is never unloaded.
 */
#ifndef PARALOOM_STAGE_H
#define PARALOOM_STAGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PARALOOM_ABI_MAJOR 1u
#define PARALOOM_ABI_MINOR 4u
#define PARALOOM_ENTRY_SYMBOL "paraloom_stages_v1"

/* True if `field` lies inside the table that the other side handed over. */
#define PARALOOM_HAS(type, table, field) \
  ((table)->struct_size >= offsetof(type, field) + sizeof((table)->field))

/* ---- Arrow C data and stream interfaces (verbatim from the Arrow project) --- */

#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE
#define ARROW_FLAG_DICTIONARY_ORDERED 1
#define ARROW_FLAG_NULLABLE 2
#define ARROW_FLAG_MAP_KEYS_SORTED 4
struct ArrowSchema {
  const char* format;
  const char* name;
  const char* metadata;
  int64_t flags;
  int64_t n_children;
  struct ArrowSchema** children;
  struct ArrowSchema* dictionary;
  void (*release)(struct ArrowSchema*);
  void* private_data;
};
struct ArrowArray {
  int64_t length;
  int64_t null_count;
  int64_t offset;
  int64_t n_buffers;
  int64_t n_children;
  const void** buffers;
  struct ArrowArray** children;
  struct ArrowArray* dictionary;
  void (*release)(struct ArrowArray*);
  void* private_data;
};
#endif

#ifndef ARROW_C_STREAM_INTERFACE
#define ARROW_C_STREAM_INTERFACE
struct ArrowArrayStream {
  int (*get_schema)(struct ArrowArrayStream*, struct ArrowSchema* out);
  int (*get_next)(struct ArrowArrayStream*, struct ArrowArray* out);
  const char* (*get_last_error)(struct ArrowArrayStream*);
  void (*release)(struct ArrowArrayStream*);
  void* private_data;
};
#endif

/* ---- values ---------------------------------------------------------------- */

/* Borrowed UTF-8, not NUL-terminated; ptr may be NULL only if len is 0. */
struct paraloom_str {
  const char* ptr;
  size_t len;
};
#define PARALOOM_STR(literal) { (literal), sizeof(literal) - 1 }

typedef uint32_t paraloom_status;
#define PARALOOM_OK 0u
#define PARALOOM_ERR_CONFIG 1u      /* the configuration is wrong; the user must change it */
#define PARALOOM_ERR_SCHEMA 2u      /* an input's schema does not fit */
#define PARALOOM_ERR_DATA 3u        /* a row or a file holds bad data */
#define PARALOOM_ERR_NOT_FOUND 4u   /* a named file, model or port is missing */
#define PARALOOM_ERR_IO 5u
#define PARALOOM_ERR_RESOURCE 6u    /* out of memory, disk or device memory */
#define PARALOOM_ERR_CANCELLED 7u   /* the host asked; not a failure */
#define PARALOOM_ERR_UNSUPPORTED 8u
#define PARALOOM_ERR_INTERNAL 9u    /* a bug in the stage */
#define PARALOOM_ERR_PANIC 10u      /* a bug in the stage: it panicked; this plan is not used again */
/* A status that this side does not know reads as PARALOOM_ERR_INTERNAL. */

/* Filled by the callee on any status but PARALOOM_OK. The caller zeroes it, sets
 * struct_size, and calls release (if not NULL) when it is done with the texts. */
#define PARALOOM_ERROR_RETRYABLE 1u
struct paraloom_error {
  uint32_t struct_size;
  uint32_t flags;
  struct paraloom_str message; /* one line, for a person */
  /* A JSON object, or empty. Known members: "pointer" (JSON pointer into the
   * configuration), "input" (name of an input port), "hint", "spans" (the errors one
   * by one in the text that "pointer" names: array of objects with "start" and "end",
   * its bytes, "message" and "hint"), "causes" (array of strings), "location" (source
   * file and line of a panic). */
  struct paraloom_str detail;
  void (*release)(struct paraloom_error*);
  void* private_data;
};

/* ---- what the host offers to a stage at work ------------------------------- */

#define PARALOOM_LOG_ERROR 1u
#define PARALOOM_LOG_WARN 2u
#define PARALOOM_LOG_INFO 3u
#define PARALOOM_LOG_DEBUG 4u
#define PARALOOM_LOG_TRACE 5u

/* Every function is thread-safe and may be called from any thread that the stage
 * started, from entry to run() until it returns, or from entry to open() until
 * close() returns; never later. Paths handed out live equally long. */
struct paraloom_host {
  uint32_t struct_size;
  uint32_t abi_minor;
  void* ctx;
  uint32_t max_log_level; /* records above this are dropped: do not format them */
  uint32_t reserved0;
  void (*log)(void* ctx, uint32_t level, struct paraloom_str message);
  /* Work done so far, of total (0 = unknown), in `unit`. Cheap: the host coalesces. */
  void (*progress)(void* ctx, uint64_t done, uint64_t total, struct paraloom_str unit);
  void (*metric)(void* ctx, struct paraloom_str name, double value, uint64_t step);
  /* Non-zero once the work should stop: return PARALOOM_ERR_CANCELLED soon after. */
  int32_t (*is_cancelled)(void* ctx);
  /* The newest committed checkpoint of this very node and input, or an empty path. */
  paraloom_status (*checkpoint_latest)(void* ctx, struct paraloom_str* out_dir,
                                       uint64_t* out_step, struct paraloom_error* error);
  /* A fresh, empty directory to write into; nothing counts until commit, which is
   * atomic. One checkpoint is open at a time. */
  paraloom_status (*checkpoint_begin)(void* ctx, uint64_t step, struct paraloom_str* out_dir,
                                      struct paraloom_error* error);
  paraloom_status (*checkpoint_commit)(void* ctx, uint64_t step, struct paraloom_error* error);
  /* A private directory, empty at the start of the work and deleted after it. */
  paraloom_status (*scratch_dir)(void* ctx, struct paraloom_str* out_dir,
                                 struct paraloom_error* error);
  /* Since 1.1. A resumable stage commits a checkpoint about this often, in milliseconds;
   * 0 = after every step. It must not decide the result. */
  uint64_t checkpoint_ms;
};

/* Takes one batch: a struct array of the schema that plan() promised. The array is
 * moved: after the call, whatever the status, the host has it or has released it.
 * May block, which is the back-pressure. Calls on one sink must not overlap. */
struct paraloom_sink {
  uint32_t struct_size;
  uint32_t reserved0;
  void* ctx;
  paraloom_status (*push)(void* ctx, struct ArrowArray* batch, struct paraloom_error* error);
};

/* ---- what a library offers ------------------------------------------------- */

#define PARALOOM_PORT_TABLE 1u    /* Arrow record batches */
#define PARALOOM_PORT_ARTIFACT 2u /* an immutable directory, such as a model */

#define PARALOOM_PORT_OPTIONAL 1u /* may be left unconnected */
#define PARALOOM_PORT_MANY 2u     /* input: takes several labelled edges */

struct paraloom_port {
  uint32_t struct_size;
  uint32_t kind;
  uint32_t flags;
  uint32_t reserved0;
  struct paraloom_str name;
  struct paraloom_str doc;
};

#define PARALOOM_STAGE_USES_SEED 1u       /* the result depends on the seed */
#define PARALOOM_STAGE_RESUMABLE 2u       /* whole stage that commits checkpoints */
#define PARALOOM_STAGE_BATCH_INVARIANT 4u /* map stage: a row's result does not depend on its neighbours */

/* What becomes of the rows of the first table input; the engine counts, and fails the node where it is not so (since 1.3).
 * A row has come of another if it has its `_id`, or has that as its `_parent`. */
#define PARALOOM_STAGE_KEEPS_ROWS 8u    /* every table output has each row once */
#define PARALOOM_STAGE_DIVIDES_ROWS 16u /* each row is in one of the table outputs, once */
#define PARALOOM_STAGE_COVERS_ROWS 32u  /* of each row comes a row of a table output, or several */

/* One edge into the node that is being planned. */
struct paraloom_plan_input {
  uint32_t struct_size;
  uint32_t port;               /* index into the stage's input ports */
  struct paraloom_str label;   /* of an edge into a MANY port, otherwise empty */
  const struct ArrowSchema* schema; /* NULL for artifacts; borrowed */
  struct paraloom_str note;    /* of an artifact: what the stage that makes it says of it; since 1.2 */
};

struct paraloom_plan_args {
  uint32_t struct_size;
  uint32_t n_inputs;
  struct paraloom_str node;        /* the node's name in the pipeline, for messages */
  struct paraloom_str config_json; /* already valid against config_schema, defaults filled in */
  const struct paraloom_plan_input* const* inputs;
};

/* One planned node. Made by plan(). */
struct paraloom_plan {
  uint32_t struct_size;
  uint32_t n_outputs;
  /* As many as the stage has output ports, in order; release == NULL for artifact
   * ports. Owned by the plan. */
  struct ArrowSchema* outputs;
  /* Enters the key of the result beside configuration, inputs and stage version:
   * say, the name of the backend. Borrowed from the plan. */
  struct paraloom_str fingerprint;
  void (*release)(struct paraloom_plan*);
  void* private_data;
  /* Since 1.2. As many as there are outputs, or NULL: what can be said of each artifact
   * before it is there, for the plans of the stages that read it. In a form that these
   * know; it enters no key. Owned by the plan. */
  const struct paraloom_str* notes;
  /* Since 1.2. Bytes of memory that the work is likely to take; 0 = not known. */
  uint64_t memory_bytes;
};

/* One edge into the node at work. */
struct paraloom_input {
  uint32_t struct_size;
  uint32_t port;
  struct paraloom_str label;
  /* Tables of whole stages: moved, the stage releases it. NULL for artifacts, and
   * for the mapped table of a map stage, which comes through map(). */
  struct ArrowArrayStream* stream;
  struct paraloom_str dir; /* artifacts: a read-only directory */
};

struct paraloom_output {
  uint32_t struct_size;
  uint32_t reserved0;
  const struct paraloom_sink* sink; /* tables; NULL in open(), where map() brings the sinks */
  struct paraloom_str dir;          /* artifacts: an empty directory, kept only after PARALOOM_OK */
};

struct paraloom_run_args {
  uint32_t struct_size;
  uint32_t threads; /* never start more compute threads than this */
  const struct paraloom_host* host;
  uint32_t n_inputs;
  uint32_t n_outputs;
  const struct paraloom_input* const* inputs;   /* the connected edges */
  const struct paraloom_output* const* outputs; /* one per output port, in order */
  uint64_t seed;                                /* of this node */
  uint64_t memory_bytes;                        /* 0 = no limit known */
  struct paraloom_str device;                   /* "cpu", "cuda:0" */
};

/* A map stage at work. Used by one thread at a time; may move between threads. */
struct paraloom_worker {
  uint32_t struct_size;
  uint32_t reserved0;
  void* private_data;
};

/* A stage works in one of two shapes.
 *  Whole (run is not NULL): pulls its inputs, pushes its outputs, in its own order.
 *  Map (open, map and close are not NULL): the rows that one call of map() pushes
 *  depend on the rows of that call alone. The first table input port is the mapped
 *  one; one call gets all rows of one part of it. So its work can be committed,
 *  resumed, spread over machines and served part by part. */
struct paraloom_stage {
  uint32_t struct_size;
  uint32_t flags;
  struct paraloom_str name;    /* [a-z][a-z0-9-]*, unique in the library */
  struct paraloom_str version; /* of what the stage computes: a new one expires old results */
  struct paraloom_str doc;
  /* JSON Schema of the configuration. A string property with "x-paraloom-path": true
   * names a file or directory: the engine hands over an absolute path, and what it
   * holds, not its name, enters the key. */
  struct paraloom_str config_schema;
  uint32_t n_inputs;
  uint32_t n_outputs;
  const struct paraloom_port* const* inputs;
  const struct paraloom_port* const* outputs;
  /* Cheap, without effects (it may read the files that the configuration names):
   * checks configuration and input schemas, says what comes out. Any thread. */
  paraloom_status (*plan)(const struct paraloom_stage* self, const struct paraloom_plan_args* args,
                          struct paraloom_plan* out, struct paraloom_error* error);
  /* Blocks until the work is done. Never called twice at once for one plan. */
  paraloom_status (*run)(const struct paraloom_stage* self, struct paraloom_plan* plan,
                         const struct paraloom_run_args* args, struct paraloom_error* error);
  paraloom_status (*open)(const struct paraloom_stage* self, struct paraloom_plan* plan,
                          const struct paraloom_run_args* args, struct paraloom_worker* out,
                          struct paraloom_error* error);
  /* Takes `batch` (moved), pushes to `sinks` (one per output port, in order). */
  paraloom_status (*map)(struct paraloom_worker* worker, struct ArrowArray* batch,
                         const struct paraloom_sink* const* sinks, struct paraloom_error* error);
  void (*close)(struct paraloom_worker* worker);
  /* Since 1.4. Rows per part that suit the stage, for a pipeline that does not say; 0 = no
   * matter. A hint: the stage must work with parts of any size. */
  uint32_t part_rows;
  uint32_t reserved0;
};

struct paraloom_library {
  uint32_t struct_size;
  uint32_t abi_major; /* PARALOOM_ABI_MAJOR */
  uint32_t abi_minor; /* the minor that the library was built against */
  uint32_t n_stages;
  struct paraloom_str name;
  struct paraloom_str version;
  struct paraloom_str built_with; /* "paraloom-sdk 0.1.0, rustc 1.95.0" */
  const struct paraloom_stage* const* stages;
};

typedef const struct paraloom_library* (*paraloom_stages_fn)(void);

#if defined(_WIN32)
#define PARALOOM_EXPORT __declspec(dllexport)
#else
#define PARALOOM_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
}
#endif
#endif /* PARALOOM_STAGE_H */
