/* What a stage in C needs beside paraloom_stage.h: settings, schemas, batches and errors.
 *
 * Optional, and no part of the ABI: everything here is static and can be changed or left out.
 * Compiles as C11 and C++17. tests/abi/count.c and tests/abi/words.c use all of it.
 *
 * Memory comes from malloc. What fails for want of it returns PARALOOM_ERR_RESOURCE, and leaves
 * what it was filling released, so that it can be released again.
 */
#ifndef PARALOOM_STAGE_HELPERS_H
#define PARALOOM_STAGE_HELPERS_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "paraloom_stage.h"

/* ---- errors ---------------------------------------------------------------- */

static inline void paraloom_release_error(struct paraloom_error* error) {
  free(error->private_data);
  error->private_data = NULL;
  error->release = NULL;
}

/* Fills `error` with a message as printf makes it, and returns `status`. `detail` is a JSON object
 * such as {"pointer":"/rows"}, or NULL; it must be static. */
static inline paraloom_status paraloom_fail(struct paraloom_error* error, paraloom_status status,
                                            const char* detail, const char* format, ...) {
  if (!error) return status;
  va_list arguments, again;
  va_start(arguments, format);
  va_copy(again, arguments);
  int length = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  char* text = length < 0 ? NULL : (char*)malloc((size_t)length + 1);
  if (text) {
    vsnprintf(text, (size_t)length + 1, format, again);
    error->message.ptr = text;
    error->message.len = (size_t)length;
    error->private_data = text;
    error->release = paraloom_release_error;
  }
  va_end(again);
  if (detail) {
    error->detail.ptr = detail;
    error->detail.len = strlen(detail);
  }
  return status;
}

/* ---- settings -------------------------------------------------------------- */

/* The end of the JSON value at `at`, which the engine has made: it is valid. */
static inline const char* paraloom_json_end(const char* at, const char* end) {
  int depth = 0, quoted = 0;
  for (; at < end; at++) {
    if (quoted) {
      if (*at == '\\') {
        at++;
      } else if (*at == '"') {
        quoted = 0;
        if (depth == 0) return at + 1;
      }
    } else if (*at == '"') {
      quoted = 1;
    } else if (*at == '{' || *at == '[') {
      depth++;
    } else if (*at == '}' || *at == ']') {
      if (depth == 0) return at;
      if (--depth == 0) return at + 1;
    } else if (depth == 0 && (*at == ',' || *at == ':')) {
      return at;
    }
  }
  return end;
}

/* The value of a setting as JSON text, such as `"a\n"` or `3`; ptr is NULL if there is none. */
static inline struct paraloom_str paraloom_setting(struct paraloom_str config, const char* name) {
  struct paraloom_str none = {NULL, 0};
  const char *at = config.ptr, *end = config.ptr + config.len;
  size_t length = strlen(name);
  if (config.len > 0) at++; /* The brace: the text is compact, as the engine makes it. */
  while (at < end && *at == '"') {
    const char* key = at;
    at = paraloom_json_end(at, end);
    int found = (size_t)(at - key) == length + 2 && memcmp(key + 1, name, length) == 0;
    const char* value = at < end ? at + 1 : end;
    at = paraloom_json_end(value, end);
    if (found) {
      struct paraloom_str text = {value, (size_t)(at - value)};
      return text;
    }
    if (at < end) at++;
  }
  return none;
}

static inline int paraloom_hex(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  return (digit | 32) - 'a' + 10;
}

/* One code point as UTF-8; the bytes. */
static inline size_t paraloom_utf8(unsigned long code, char* out) {
  if (code < 0x80) {
    out[0] = (char)code;
    return 1;
  }
  size_t more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  out[0] = (char)((more == 1 ? 0xc0 : more == 2 ? 0xe0 : 0xf0) | (code >> (6 * more)));
  for (size_t at = 1; at <= more; at++) out[at] = (char)(0x80 | ((code >> (6 * (more - at))) & 0x3f));
  return more + 1;
}

/* A text setting as a string that ends in a NUL, from malloc; `missing` is returned as a copy if it
 * is not there or null. NULL if there is no memory. */
static inline char* paraloom_setting_text(struct paraloom_str config, const char* name,
                                          const char* missing) {
  struct paraloom_str json = paraloom_setting(config, name);
  if (!json.ptr || json.len < 2 || json.ptr[0] != '"') {
    char* copy = (char*)malloc(strlen(missing) + 1);
    if (copy) memcpy(copy, missing, strlen(missing) + 1);
    return copy;
  }
  char* text = (char*)malloc(json.len); /* Escapes are longer than what they mean. */
  if (!text) return NULL;
  size_t length = 0;
  const char* end = json.ptr + json.len - 1;
  for (const char* at = json.ptr + 1; at < end; at++) {
    if (*at != '\\') {
      text[length++] = *at;
      continue;
    }
    at++;
    unsigned long code = 0;
    switch (*at) {
      case 'n': text[length++] = '\n'; break;
      case 't': text[length++] = '\t'; break;
      case 'r': text[length++] = '\r'; break;
      case 'b': text[length++] = '\b'; break;
      case 'f': text[length++] = '\f'; break;
      case 'u':
        for (int digit = 1; digit <= 4; digit++) code = code * 16 + (unsigned long)paraloom_hex(at[digit]);
        at += 4;
        if (code >= 0xd800 && code < 0xdc00 && end - at > 6) {
          unsigned long low = 0;
          for (int digit = 3; digit <= 6; digit++) low = low * 16 + (unsigned long)paraloom_hex(at[digit]);
          code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
          at += 6;
        }
        length += paraloom_utf8(code, text + length);
        break;
      default: text[length++] = *at;
    }
  }
  text[length] = '\0';
  return text;
}

/* A setting that is a whole number. */
static inline int64_t paraloom_setting_integer(struct paraloom_str config, const char* name,
                                               int64_t missing) {
  struct paraloom_str json = paraloom_setting(config, name);
  char digits[32];
  if (!json.ptr || json.len == 0 || json.len >= sizeof digits) return missing;
  memcpy(digits, json.ptr, json.len);
  digits[json.len] = '\0';
  char* end;
  long long number = strtoll(digits, &end, 10);
  return end == digits ? missing : (int64_t)number;
}

/* A setting that is a number. */
static inline double paraloom_setting_number(struct paraloom_str config, const char* name,
                                             double missing) {
  struct paraloom_str json = paraloom_setting(config, name);
  char digits[64];
  if (!json.ptr || json.len == 0 || json.len >= sizeof digits) return missing;
  memcpy(digits, json.ptr, json.len);
  digits[json.len] = '\0';
  char* end;
  double number = strtod(digits, &end);
  return end == digits ? missing : number;
}

/* A setting that is true or false. */
static inline int paraloom_setting_bool(struct paraloom_str config, const char* name, int missing) {
  struct paraloom_str json = paraloom_setting(config, name);
  if (json.ptr && json.len == 4 && memcmp(json.ptr, "true", 4) == 0) return 1;
  if (json.ptr && json.len == 5 && memcmp(json.ptr, "false", 5) == 0) return 0;
  return missing;
}

/* ---- schemas --------------------------------------------------------------- */

static inline void paraloom_release_schema(struct ArrowSchema* schema) {
  for (int64_t at = 0; schema->children && at < schema->n_children; at++) {
    struct ArrowSchema* child = schema->children[at];
    if (child && child->release) child->release(child);
    free(child);
  }
  free(schema->children);
  if (schema->dictionary) {
    if (schema->dictionary->release) schema->dictionary->release(schema->dictionary);
    free(schema->dictionary);
  }
  free(schema->private_data); /* Format and name. */
  schema->release = NULL;
}

/* A schema with room for `children`, each of which is still to be made. */
static inline paraloom_status paraloom_new_schema(struct ArrowSchema* out, const char* name,
                                                  const char* format, int64_t flags,
                                                  int64_t children) {
  memset(out, 0, sizeof *out);
  size_t name_size = strlen(name) + 1, format_size = strlen(format) + 1;
  char* texts = (char*)malloc(name_size + format_size);
  out->private_data = texts;
  out->release = paraloom_release_schema;
  out->children = (struct ArrowSchema**)calloc((size_t)children + 1, sizeof *out->children);
  if (!texts || !out->children) {
    paraloom_release_schema(out);
    return PARALOOM_ERR_RESOURCE;
  }
  memcpy(texts, name, name_size);
  memcpy(texts + name_size, format, format_size);
  out->name = texts;
  out->format = texts + name_size;
  out->flags = flags;
  for (; out->n_children < children; out->n_children++) {
    struct ArrowSchema* child = (struct ArrowSchema*)calloc(1, sizeof *child);
    if (!child) {
      paraloom_release_schema(out);
      return PARALOOM_ERR_RESOURCE;
    }
    out->children[out->n_children] = child;
  }
  return PARALOOM_OK;
}

/* The schema of a table with room for `columns`; make each with paraloom_column. */
static inline paraloom_status paraloom_table(struct ArrowSchema* out, int64_t columns) {
  return paraloom_new_schema(out, "", "+s", 0, columns);
}

/* A column of a table: its format is "u" for text, "l" for 64-bit whole numbers, "g" for numbers,
 * "b" for true or false (docs: Arrow, C data interface). */
static inline paraloom_status paraloom_column(struct ArrowSchema* table, int64_t index,
                                              const char* name, const char* format, int nullable) {
  return paraloom_new_schema(table->children[index], name, format,
                             nullable ? ARROW_FLAG_NULLABLE : 0, 0);
}

/* A copy of a schema, with room for `more` children behind those that it has. Metadata is left out. */
static inline paraloom_status paraloom_copy_schema(const struct ArrowSchema* from,
                                                   struct ArrowSchema* to, int64_t more) {
  paraloom_status status = paraloom_new_schema(to, from->name ? from->name : "", from->format,
                                               from->flags, from->n_children + more);
  for (int64_t at = 0; status == PARALOOM_OK && at < from->n_children; at++)
    status = paraloom_copy_schema(from->children[at], to->children[at], 0);
  if (status == PARALOOM_OK && from->dictionary) {
    to->dictionary = (struct ArrowSchema*)calloc(1, sizeof *to->dictionary);
    status = to->dictionary ? paraloom_copy_schema(from->dictionary, to->dictionary, 0)
                            : PARALOOM_ERR_RESOURCE;
  }
  if (status != PARALOOM_OK && to->release) to->release(to);
  return status;
}

/* The index of a column, or -1. */
static inline int64_t paraloom_find_column(const struct ArrowSchema* table, const char* name) {
  for (int64_t at = 0; at < table->n_children; at++)
    if (table->children[at]->name && strcmp(table->children[at]->name, name) == 0) return at;
  return -1;
}

/* ---- reading batches ------------------------------------------------------- */

/* Where the value of a row is in the buffers of a column: the offset of a batch counts for its
 * columns as well. */
static inline int64_t paraloom_place(const struct ArrowArray* batch, int64_t column, int64_t row) {
  return batch->offset + batch->children[column]->offset + row;
}

static inline int paraloom_is_null(const struct ArrowArray* batch, int64_t column, int64_t row) {
  const struct ArrowArray* values = batch->children[column];
  if (values->n_buffers == 0 || values->null_count == 0 || !values->buffers[0]) return 0;
  int64_t place = paraloom_place(batch, column, row);
  return !(((const uint8_t*)values->buffers[0])[place / 8] >> (place % 8) & 1);
}

/* The text of a row in a column of the format "u"; empty where it is null. Not NUL-terminated. */
static inline struct paraloom_str paraloom_text(const struct ArrowArray* batch, int64_t column,
                                                int64_t row) {
  struct paraloom_str text = {NULL, 0};
  if (paraloom_is_null(batch, column, row)) return text;
  const struct ArrowArray* values = batch->children[column];
  const int32_t* ends = (const int32_t*)values->buffers[1] + paraloom_place(batch, column, row);
  text.ptr = (const char*)values->buffers[2] + ends[0];
  text.len = (size_t)(ends[1] - ends[0]);
  return text;
}

/* The number of a row in a column of the format "l". */
static inline int64_t paraloom_integer(const struct ArrowArray* batch, int64_t column, int64_t row) {
  return ((const int64_t*)batch->children[column]->buffers[1])[paraloom_place(batch, column, row)];
}

/* The number of a row in a column of the format "g". */
static inline double paraloom_number(const struct ArrowArray* batch, int64_t column, int64_t row) {
  return ((const double*)batch->children[column]->buffers[1])[paraloom_place(batch, column, row)];
}

/* ---- making batches -------------------------------------------------------- */

static inline void paraloom_release_array(struct ArrowArray* array) {
  for (int64_t at = 0; array->children && at < array->n_children; at++) {
    struct ArrowArray* child = array->children[at];
    if (child && child->release) child->release(child);
    free(child);
  }
  free(array->children);
  for (int64_t at = 0; array->buffers && at < array->n_buffers; at++) free((void*)array->buffers[at]);
  free((void*)array->buffers);
  array->release = NULL;
}

static inline paraloom_status paraloom_new_array(struct ArrowArray* out, int64_t length,
                                                 int64_t buffers, int64_t children) {
  memset(out, 0, sizeof *out);
  out->release = paraloom_release_array;
  out->length = length;
  out->buffers = (const void**)calloc((size_t)buffers + 1, sizeof *out->buffers);
  out->children = (struct ArrowArray**)calloc((size_t)children + 1, sizeof *out->children);
  if (!out->buffers || !out->children) {
    paraloom_release_array(out);
    return PARALOOM_ERR_RESOURCE;
  }
  out->n_buffers = buffers;
  for (; out->n_children < children; out->n_children++) {
    struct ArrowArray* child = (struct ArrowArray*)calloc(1, sizeof *child);
    if (!child) {
      paraloom_release_array(out);
      return PARALOOM_ERR_RESOURCE;
    }
    out->children[out->n_children] = child;
  }
  return PARALOOM_OK;
}

/* A batch with room for `columns`, each of which is still to be made. */
static inline paraloom_status paraloom_batch(struct ArrowArray* out, int64_t rows, int64_t columns) {
  return paraloom_new_array(out, rows, 1, columns);
}

/* A column of numbers of 8 bytes ("l" or "g"), which the caller fills: NULL if there is no memory.
 * The column has no nulls. */
static inline void* paraloom_fixed_column(struct ArrowArray* batch, int64_t column) {
  struct ArrowArray* values = batch->children[column];
  if (paraloom_new_array(values, batch->length, 2, 0) != PARALOOM_OK) return NULL;
  values->buffers[1] = calloc((size_t)batch->length + 1, 8);
  if (!values->buffers[1]) paraloom_release_array(values);
  return values->release ? (void*)values->buffers[1] : NULL;
}

/* A column of text: `ends` has a 0, and then where the text of each row ends in `data`. Both are
 * from malloc, and belong to the column from here on, also if this fails. It has no nulls. */
static inline paraloom_status paraloom_text_column(struct ArrowArray* batch, int64_t column,
                                                   int32_t* ends, char* data) {
  struct ArrowArray* values = batch->children[column];
  if (paraloom_new_array(values, batch->length, 3, 0) != PARALOOM_OK) {
    free(ends);
    free(data);
    return PARALOOM_ERR_RESOURCE;
  }
  values->buffers[1] = ends;
  values->buffers[2] = data;
  return PARALOOM_OK;
}

/* Moves the columns of a batch to the first places of another of as many rows, and releases the rest
 * of it. Nothing is copied. */
static inline void paraloom_move_columns(struct ArrowArray* from, struct ArrowArray* to) {
  for (int64_t at = 0; at < from->n_children; at++) {
    *to->children[at] = *from->children[at];
    from->children[at]->release = NULL;
    to->children[at]->offset += from->offset;
    if (to->children[at]->length != from->length) to->children[at]->null_count = -1;
    to->children[at]->length = from->length;
  }
  from->release(from);
}

#endif /* PARALOOM_STAGE_HELPERS_H */
