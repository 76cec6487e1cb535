#include "core/io/pickle_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/str.h"

/* What a global of the table does when a pickle "calls" it. */
typedef enum { MAKE_DICT, MAKE_TENSOR, MAKE_TENSOR_V3, MAKE_PARAMETER, MAKE_SIZE, STORAGE, ELEMENT_TYPE } global_role;

enum { UNTYPED = -1 };

static const struct {
    const char *module, *name;
    global_role role;
    int dtype;
} GLOBALS[] = {
    { "collections", "OrderedDict", MAKE_DICT, 0 },
    { "torch._utils", "_rebuild_tensor_v2", MAKE_TENSOR, 0 },
    { "torch._utils", "_rebuild_tensor", MAKE_TENSOR, 0 },
    { "torch._utils", "_rebuild_tensor_v3", MAKE_TENSOR_V3, 0 },
    { "torch._utils", "_rebuild_parameter", MAKE_PARAMETER, 0 },
    { "torch", "Size", MAKE_SIZE, 0 },
    { "torch", "FloatStorage", STORAGE, DT_F32 },
    { "torch", "HalfStorage", STORAGE, DT_F16 },
    { "torch", "BFloat16Storage", STORAGE, DT_BF16 },
    { "torch", "DoubleStorage", STORAGE, DT_F64 },
    { "torch", "LongStorage", STORAGE, DT_I64 },
    { "torch", "IntStorage", STORAGE, DT_I32 },
    { "torch", "ShortStorage", STORAGE, DT_I16 },
    { "torch", "CharStorage", STORAGE, DT_I8 },
    { "torch", "ByteStorage", STORAGE, DT_U8 },
    { "torch", "BoolStorage", STORAGE, DT_BOOL },
    { "torch", "UntypedStorage", STORAGE, UNTYPED },
    { "torch.storage", "UntypedStorage", STORAGE, UNTYPED },
    { "torch", "float32", ELEMENT_TYPE, DT_F32 },
    { "torch", "float16", ELEMENT_TYPE, DT_F16 },
    { "torch", "bfloat16", ELEMENT_TYPE, DT_BF16 },
    { "torch", "float64", ELEMENT_TYPE, DT_F64 },
    { "torch", "float8_e4m3fn", ELEMENT_TYPE, DT_F8_E4M3 },
    { "torch", "float8_e5m2", ELEMENT_TYPE, DT_F8_E5M2 },
    { "torch", "int64", ELEMENT_TYPE, DT_I64 },
    { "torch", "int32", ELEMENT_TYPE, DT_I32 },
    { "torch", "int16", ELEMENT_TYPE, DT_I16 },
    { "torch", "int8", ELEMENT_TYPE, DT_I8 },
    { "torch", "uint8", ELEMENT_TYPE, DT_U8 },
    { "torch", "bool", ELEMENT_TYPE, DT_BOOL },
};

typedef struct machine {
    const uint8_t *start, *p, *end;
    const char *path;
    arena *memory;
    pickle_value **stack;
    size_t depth, stack_cap;
    pickle_value **memo;            /* open addressing: memo_keys[slot] is the number + 1 */
    uint64_t *memo_keys;
    size_t memo_count, memo_size;
    err *e;
} machine;

static pickle_value MARK_VALUE = { .kind = PICKLE_MARK };

static int bad(machine *m, const char *what)
{
    return ERR(m->e, ERR_FORMAT, "%s: the pickle is damaged at byte %zu: %s", m->path, (size_t)(m->p - m->start), what);
}

static int no_memory(machine *m)
{
    return ERR(m->e, ERR_MEMORY, "%s: memory ran out while reading the pickle", m->path);
}

static int refuse_call(machine *m, const char *module, size_t module_len, const char *name, size_t name_len)
{
    char shown[220];
    size_t n = 0;
    for (size_t i = 0; i < module_len + 1 + name_len && n < 200; i++) {
        char c = i < module_len ? module[i] : i == module_len ? '.' : name[i - module_len - 1];
        shown[n++] = c >= 0x20 && c < 0x7f ? c : '?';
    }
    shown[n] = '\0';
    return ERR(m->e, ERR_FORMAT, "%s: the pickle asks to call '%s', which no checkpoint of tensors needs; nothing was "
               "executed and the file is refused. Do not trust it: get the model from its authors, if possible as "
               "safetensors", m->path, shown);
}

static int refuse_opcode(machine *m, uint8_t op)
{
    static const struct {
        uint8_t op;
        const char *name;
    } NAMES[] = {
        { 'o', "OBJ" }, { 0x81, "NEWOBJ" }, { 0x92, "NEWOBJ_EX" }, { 'P', "PERSID" }, { 0x82, "EXT1" },
        { 0x83, "EXT2" },
        { 0x84, "EXT4" }, { '0', "POP" }, { '1', "POP_MARK" }, { '2', "DUP" }, { 'B', "BINBYTES" },
        { 'T', "BINSTRING" },
        { 'C', "SHORT_BINBYTES" }, { 'U', "SHORT_BINSTRING" }, { 'd', "DICT" }, { 'l', "LIST" }, { 'I', "INT" },
        { 'L', "LONG" }, { 'F', "FLOAT" }, { 'S', "STRING" }, { 'V', "UNICODE" }, { 'g', "GET" }, { 'p', "PUT" },
        { 0x8b, "LONG4" }, { 0x8f, "EMPTY_SET" }, { 0x90, "ADDITEMS" }, { 0x91, "FROZENSET" }, { 0x96, "BYTEARRAY8" },
        { 0x97, "NEXT_BUFFER" }, { 0x98, "READONLY_BUFFER" }, { 0x8d, "BINUNICODE8" }, { 0x8e, "BINBYTES8" },
    };
    const char *name = "not an opcode of pickle";
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (NAMES[i].op == op)
            name = NAMES[i].name;
    return ERR(m->e, ERR_FORMAT, "%s: the pickle uses opcode 0x%02x (%s) at byte %zu, which a state dict of tensors "
               "does not need; the file is refused", m->path, op, name, (size_t)(m->p - m->start) - 1);
}

/* stack and memo */

static int push(machine *m, pickle_value *v)
{
    if (m->depth == m->stack_cap) {
        size_t cap = m->stack_cap ? m->stack_cap * 2 : 256;
        pickle_value **more = realloc(m->stack, cap * sizeof *more);
        if (!more)
            return no_memory(m);
        m->stack = more;
        m->stack_cap = cap;
    }
    m->stack[m->depth++] = v;
    return 0;
}

static pickle_value *new_value(machine *m, pickle_kind kind)
{
    pickle_value *v = arena_alloc(m->memory, sizeof *v);
    if (v)
        v->kind = kind;
    return v;
}

static int push_new(machine *m, pickle_kind kind, int64_t integer)
{
    pickle_value *v = new_value(m, kind);
    if (!v)
        return no_memory(m);
    v->integer = integer;
    return push(m, v);
}

/* the value on top, popped; NULL when there is none or it is a mark */
static pickle_value *pop(machine *m)
{
    if (!m->depth || m->stack[m->depth - 1] == &MARK_VALUE)
        return NULL;
    return m->stack[--m->depth];
}

/* the number of values above the topmost mark; -1 without a mark */
static int64_t above_mark(const machine *m)
{
    for (size_t n = 0; n < m->depth; n++)
        if (m->stack[m->depth - 1 - n] == &MARK_VALUE)
            return (int64_t)n;
    return -1;
}

static size_t memo_slot(const machine *m, uint64_t key)
{
    size_t mask = m->memo_size - 1, slot = (size_t)((key * 0x9e3779b97f4a7c15u) >> 20) & mask;
    while (m->memo_keys[slot] && m->memo_keys[slot] != key + 1)
        slot = (slot + 1) & mask;
    return slot;
}

static int memo_put(machine *m, uint64_t key)
{
    if (!m->depth || m->stack[m->depth - 1] == &MARK_VALUE)
        return bad(m, "it memorises a value that is not there");
    if (m->memo_count * 2 >= m->memo_size) {
        machine old = *m;
        m->memo_size = old.memo_size ? old.memo_size * 2 : 1024;
        m->memo = calloc(m->memo_size, sizeof *m->memo);
        m->memo_keys = calloc(m->memo_size, sizeof *m->memo_keys);
        if (!m->memo || !m->memo_keys) {
            free(m->memo);
            free(m->memo_keys);
            m->memo = old.memo;
            m->memo_keys = old.memo_keys;
            m->memo_size = old.memo_size;
            return no_memory(m);
        }
        for (size_t i = 0; i < old.memo_size; i++)
            if (old.memo_keys[i]) {
                size_t slot = memo_slot(m, old.memo_keys[i] - 1);
                m->memo_keys[slot] = old.memo_keys[i];
                m->memo[slot] = old.memo[i];
            }
        free(old.memo);
        free(old.memo_keys);
    }
    size_t slot = memo_slot(m, key);
    if (!m->memo_keys[slot]) {
        m->memo_keys[slot] = key + 1;
        m->memo_count++;
    }
    m->memo[slot] = m->stack[m->depth - 1];
    return 0;
}

static int memo_get(machine *m, uint64_t key)
{
    size_t slot = m->memo_size ? memo_slot(m, key) : 0;
    if (!m->memo_size || !m->memo_keys[slot])
        return bad(m, "it recalls a value that was never memorised");
    return push(m, m->memo[slot]);
}

/* containers */

static int container_add(machine *m, pickle_value *v, pickle_value **items, size_t n)
{
    if (v->cap - v->count < n) {
        size_t cap = v->cap ? v->cap * 2 : 8;
        while (cap < v->count + n)
            cap *= 2;
        pickle_value **more = arena_alloc(m->memory, cap * sizeof *more);
        if (!more)
            return no_memory(m);
        if (v->count)
            memcpy(more, v->items, v->count * sizeof *more);
        v->items = more;
        v->cap = cap;
    }
    memcpy(v->items + v->count, items, n * sizeof *items);
    v->count += n;
    return 0;
}

/* the top n values become a tuple; with_mark: the mark below them goes too */
static int make_tuple(machine *m, size_t n, bool with_mark)
{
    pickle_value *v = new_value(m, PICKLE_TUPLE);
    if (m->depth < n + with_mark)
        return bad(m, "a tuple takes more values than there are");
    for (size_t i = 0; i < n; i++)
        if (m->stack[m->depth - 1 - i] == &MARK_VALUE)
            return bad(m, "a tuple takes more values than there are");
    if (!v)
        return no_memory(m);
    if (n) {
        if (!(v->items = arena_alloc(m->memory, n * sizeof *v->items)))
            return no_memory(m);
        memcpy(v->items, m->stack + m->depth - n, n * sizeof *v->items);
    }
    v->count = v->cap = n;
    m->depth -= n + with_mark;
    return push(m, v);
}

/* the n values above the mark (or the top n without one) go into the container below */
static int add_items(machine *m, pickle_kind kind, size_t n, bool with_mark)
{
    if (m->depth < n + with_mark + 1)
        return bad(m, "items are added to nothing");
    pickle_value *target = m->stack[m->depth - n - with_mark - 1];
    if (target->kind != kind)
        return bad(m, kind == PICKLE_DICT ? "members are added to something that is not a dict"
                                          : "elements are added to something that is not a list");
    if (kind == PICKLE_DICT && n % 2)
        return bad(m, "a dict gets a key without a value");
    for (size_t i = 0; i < n; i++)
        if (m->stack[m->depth - 1 - i] == &MARK_VALUE)
            return bad(m, "items are added to nothing");
    int rc = n ? container_add(m, target, m->stack + m->depth - n, n) : 0;
    m->depth -= n + with_mark;
    return rc;
}

/* globals */

static int push_global(machine *m, const char *module, size_t module_len, const char *name, size_t name_len)
{
    for (size_t i = 0; i < sizeof GLOBALS / sizeof *GLOBALS; i++) {
        if (strlen(GLOBALS[i].module) != module_len || memcmp(GLOBALS[i].module, module, module_len) ||
            strlen(GLOBALS[i].name) != name_len || memcmp(GLOBALS[i].name, name, name_len))
            continue;
        pickle_value *v = new_value(m, PICKLE_GLOBAL);
        if (!v)
            return no_memory(m);
        v->global = (int)i;
        return push(m, v);
    }
    return refuse_call(m, module, module_len, name, name_len);
}

static bool is_int(const pickle_value *v)
{
    return v->kind == PICKLE_INT;
}

static int make_tensor(machine *m, const pickle_value *args, bool v3)
{
    size_t least = v3 ? 7 : 4;
    if (args->count < least)
        return bad(m, "a tensor is built from too few values");
    pickle_value **a = args->items;
    if (a[0]->kind != PICKLE_STORAGE || !is_int(a[1]) || a[2]->kind != PICKLE_TUPLE || a[3]->kind != PICKLE_TUPLE)
        return bad(m, "a tensor is not built from a storage, an offset, a size and strides");
    if (a[2]->count != a[3]->count)
        return bad(m, "a tensor has a different number of sizes and strides");
    pickle_value *v = new_value(m, PICKLE_TENSOR);
    pickle_tensor *t = arena_alloc(m->memory, sizeof *t);
    if (!v || !t)
        return no_memory(m);
    v->tensor = t;
    t->storage = a[0];
    t->offset = a[1]->integer;
    t->ndim = a[2]->count > 1000 ? 1000 : (int)a[2]->count;
    t->dtype = -1;
    for (size_t i = 0; i < a[2]->count; i++) {
        if (!is_int(a[2]->items[i]) || !is_int(a[3]->items[i]))
            return bad(m, "a tensor's sizes and strides are not all integers");
        if (i < CKPT_MAX_DIMS) {
            t->shape[i] = a[2]->items[i]->integer;
            t->stride[i] = a[3]->items[i]->integer;
        }
    }
    if (v3) {
        if (a[6]->kind != PICKLE_GLOBAL || GLOBALS[a[6]->global].role != ELEMENT_TYPE)
            return bad(m, "a tensor's element type is not a type");
        t->dtype = GLOBALS[a[6]->global].dtype;
    }
    size_t extra = v3 ? 7 : 6;
    t->lazy = args->count > extra && a[extra]->kind == PICKLE_DICT && a[extra]->count > 0;
    return push(m, v);
}

static int reduce(machine *m)
{
    pickle_value *args = pop(m), *callee = args ? pop(m) : NULL;
    if (!callee)
        return bad(m, "a call lacks its function or arguments");
    if (args->kind != PICKLE_TUPLE || callee->kind != PICKLE_GLOBAL)
        return bad(m, "something that is not a function is called");
    switch (GLOBALS[callee->global].role) {
    case MAKE_DICT:
        if (args->count)
            return bad(m, "an OrderedDict is built with arguments");
        return push_new(m, PICKLE_DICT, 0);
    case MAKE_TENSOR: return make_tensor(m, args, false);
    case MAKE_TENSOR_V3: return make_tensor(m, args, true);
    case MAKE_PARAMETER:
        if (args->count < 1 || args->items[0]->kind != PICKLE_TENSOR)
            return bad(m, "a parameter is built from something that is not a tensor");
        return push(m, args->items[0]);
    case MAKE_SIZE:
        if (args->count != 1 || args->items[0]->kind != PICKLE_TUPLE)
            return bad(m, "a torch.Size is built from something that is not a tuple");
        return push(m, args->items[0]);
    case STORAGE:
    case ELEMENT_TYPE: break;
    }
    return bad(m, "a storage or element type is called like a function");
}

/* ('storage', class, key, location, number of elements) */
static int persistent_id(machine *m)
{
    pickle_value *id = pop(m);
    if (!id || id->kind != PICKLE_TUPLE || id->count < 5)
        return bad(m, "a persistent id is not a storage");
    pickle_value **a = id->items;
    if (a[0]->kind != PICKLE_TEXT || a[0]->count != 7 || memcmp(a[0]->text, "storage", 7) ||
        a[1]->kind != PICKLE_GLOBAL || GLOBALS[a[1]->global].role != STORAGE || a[2]->kind != PICKLE_TEXT ||
        !is_int(a[4]) || a[4]->integer < 0)
        return bad(m, "a persistent id is not a storage");
    pickle_value *v = new_value(m, PICKLE_STORAGE);
    if (!v)
        return no_memory(m);
    v->global = GLOBALS[a[1]->global].dtype;
    v->integer = a[4]->integer;
    v->text = a[2]->text;
    v->count = a[2]->count;
    return push(m, v);
}

/* operands */

static bool take(machine *m, size_t n, const uint8_t **out)
{
    if ((size_t)(m->end - m->p) < n)
        return false;
    *out = m->p;
    m->p += n;
    return true;
}

static bool take_line(machine *m, const char **text, size_t *n)
{
    const uint8_t *nl = memchr(m->p, '\n', (size_t)(m->end - m->p));
    if (!nl)
        return false;
    *text = (const char *)m->p;
    *n = (size_t)(nl - m->p);
    m->p = nl + 1;
    return true;
}

static int push_text(machine *m, size_t n)
{
    const uint8_t *text;
    if (!take(m, n, &text))
        return bad(m, "a text runs past the end");
    pickle_value *v = new_value(m, PICKLE_TEXT);
    if (!v)
        return no_memory(m);
    v->text = (const char *)text;
    v->count = n;
    return push(m, v);
}

/* one opcode other than STOP */
static int step(machine *m, uint8_t op)
{
    static const char SHORT[] = "the file ends inside an instruction";
    const uint8_t *b;
    const char *module, *name;
    size_t module_len, name_len;
    int64_t n;
    switch (op) {
    case 0x80:      /* PROTO */
        if (!take(m, 1, &b))
            return bad(m, SHORT);
        return b[0] <= 5 ? 0 : bad(m, "a protocol newer than 5");
    case 0x95:      /* FRAME */
        return take(m, 8, &b) ? 0 : bad(m, SHORT);
    case '}': return push_new(m, PICKLE_DICT, 0);
    case ']': return push_new(m, PICKLE_LIST, 0);
    case ')': return make_tuple(m, 0, false);
    case '(': return push(m, &MARK_VALUE);
    case 'N': return push_new(m, PICKLE_NONE, 0);
    case 0x88: return push_new(m, PICKLE_BOOL, 1);
    case 0x89: return push_new(m, PICKLE_BOOL, 0);
    case 'K': return take(m, 1, &b) ? push_new(m, PICKLE_INT, b[0]) : bad(m, SHORT);
    case 'M': return take(m, 2, &b) ? push_new(m, PICKLE_INT, read_le16(b)) : bad(m, SHORT);
    case 'J': return take(m, 4, &b) ? push_new(m, PICKLE_INT, (int32_t)read_le32(b)) : bad(m, SHORT);
    case 0x8a: {    /* LONG1: little-endian two's complement; beyond 64 bits it is nothing a tensor needs */
        const uint8_t *digits;
        uint64_t value = 0;
        if (!take(m, 1, &b) || !take(m, b[0], &digits))
            return bad(m, SHORT);
        if (b[0] > 8)
            return push_new(m, PICKLE_NONE, 0);
        for (int i = 0; i < b[0]; i++)
            value |= (uint64_t)digits[i] << (8 * i);
        if (b[0] && b[0] < 8 && digits[b[0] - 1] & 0x80)
            value |= ~(uint64_t)0 << (8 * b[0]);
        return push_new(m, PICKLE_INT, (int64_t)value);
    }
    case 'G': {     /* BINFLOAT, big-endian */
        uint64_t bits = 0;
        double number;
        if (!take(m, 8, &b))
            return bad(m, SHORT);
        for (int i = 0; i < 8; i++)
            bits = bits << 8 | b[i];
        memcpy(&number, &bits, 8);
        int rc = push_new(m, PICKLE_FLOAT, 0);
        if (!rc)
            m->stack[m->depth - 1]->number = number;
        return rc;
    }
    case 'X': return take(m, 4, &b) ? push_text(m, read_le32(b)) : bad(m, SHORT);
    case 0x8c: return take(m, 1, &b) ? push_text(m, b[0]) : bad(m, SHORT);
    case 'q': return take(m, 1, &b) ? memo_put(m, b[0]) : bad(m, SHORT);
    case 'r': return take(m, 4, &b) ? memo_put(m, read_le32(b)) : bad(m, SHORT);
    case 0x94: return memo_put(m, m->memo_count);
    case 'h': return take(m, 1, &b) ? memo_get(m, b[0]) : bad(m, SHORT);
    case 'j': return take(m, 4, &b) ? memo_get(m, read_le32(b)) : bad(m, SHORT);
    case 't': return (n = above_mark(m)) < 0 ? bad(m, "a tuple without its mark") : make_tuple(m, (size_t)n, true);
    case 0x85: return make_tuple(m, 1, false);
    case 0x86: return make_tuple(m, 2, false);
    case 0x87: return make_tuple(m, 3, false);
    case 's': return add_items(m, PICKLE_DICT, 2, false);
    case 'a': return add_items(m, PICKLE_LIST, 1, false);
    case 'u': return (n = above_mark(m)) < 0 ? bad(m, "members without their mark")
                                             : add_items(m, PICKLE_DICT, (size_t)n, true);
    case 'e': return (n = above_mark(m)) < 0 ? bad(m, "elements without their mark")
                                             : add_items(m, PICKLE_LIST, (size_t)n, true);
    case 'c':       /* GLOBAL */
    case 'i':       /* INST: the same two lines, and a call */
        if (!take_line(m, &module, &module_len) || !take_line(m, &name, &name_len))
            return bad(m, SHORT);
        return op == 'i' ? refuse_call(m, module, module_len, name, name_len)
                         : push_global(m, module, module_len, name, name_len);
    case 0x93: {    /* STACK_GLOBAL */
        pickle_value *v = pop(m), *u = v ? pop(m) : NULL;
        if (!u || u->kind != PICKLE_TEXT || v->kind != PICKLE_TEXT)
            return bad(m, "a global is not named by two texts");
        return push_global(m, u->text, u->count, v->text, v->count);
    }
    case 'R': return reduce(m);
    case 'Q': return persistent_id(m);
    case 'b': {     /* BUILD: a state dict's _metadata; of no use here */
        pickle_value *state = pop(m);
        if (!state || !m->depth || m->stack[m->depth - 1]->kind != PICKLE_DICT)
            return bad(m, "a state is set on something that is not a dict");
        return 0;
    }
    default: return refuse_opcode(m, op);
    }
}

int pickle_read(pickle_value **out, arena *memory, const uint8_t *data, size_t size, const char *path, err *e)
{
    machine m = { .start = data, .p = data, .end = data + size, .path = path, .memory = memory, .e = e };
    int rc = 0;
    *out = NULL;
    for (;;) {
        if (m.p == m.end) {
            rc = bad(&m, "it ends without a STOP; the file is truncated");
            break;
        }
        uint8_t op = *m.p++;
        if (op == '.') {
            pickle_value *v = pop(&m);
            if (!v || m.depth)
                rc = bad(&m, "it stops without exactly one result");
            else
                *out = v;
            break;
        }
        if ((rc = step(&m, op)))
            break;
    }
    free(m.stack);
    free(m.memo);
    free(m.memo_keys);
    return rc;
}
