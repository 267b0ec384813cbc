/* SPDX-License-Identifier: Apache-2.0
 *
 * Walks a definition along the tables of definition_keys.c, then reads what hamgr needs.
 */
#include "hamgr/hv/xen/definition.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "hamgr/hv/xen/definition_keys.h"

#define WHERE_MAX   128u
#define TEXT_MAX    4096u /* of one value: a kernel's command line is at most that */
#define MEM_KIB_MIN 1024u
#define MEM_KIB_MAX (UINT64_C(16) << 30) /* 16 TiB: what the hypervisor takes at most */
#define VCPUS_MAX   512u

struct walk {
    const struct xen_allow *allow;
    char where[WHERE_MAX]; /* of the value looked at: "b_info.kernel" */
    struct ha_err *err;
};

static int refuse(const struct walk *w, const char *why)
{
    return ha_err_set(w->err, HA_E_USAGE, "%s: %s", w->where, why);
}

/* How libxl writes that there is nothing. */
static bool is_nothing(const json_t *value)
{
    static const char *const words[] = {"", "False", "<default>", "none", "unknown", "default"};

    if (!value || json_is_null(value) || json_is_false(value))
        return true;
    if (json_is_integer(value))
        return json_integer_value(value) == 0;
    if (json_is_array(value))
        return json_array_size(value) == 0;
    if (json_is_object(value))
        return json_object_size(value) == 0;
    for (size_t n = 0; json_is_string(value) && n < sizeof(words) / sizeof(words[0]); n++)
        if (strcmp(json_string_value(value), words[n]) == 0)
            return true;
    return false;
}

static bool is_plain_text(const json_t *value)
{
    const char *text = json_string_value(value);
    size_t size = json_string_length(value);

    if (!text || size > TEXT_MAX)
        return false;
    for (size_t n = 0; n < size; n++)
        if ((unsigned char)text[n] < ' ' || text[n] == 0x7f)
            return false;
    return true;
}

static bool is_scalar(const json_t *value)
{
    return json_is_string(value) ? is_plain_text(value)
                                 : !json_is_object(value) && !json_is_array(value);
}

static bool is_tree(const json_t *value, unsigned depth)
{
    const char *key;
    json_t *item;
    size_t n;

    if (depth == 0)
        return false;
    json_array_foreach(value, n, item)
    {
        if (!is_tree(item, depth - 1))
            return false;
    }
    json_object_foreach((json_t *)(uintptr_t)value, key, item)
    {
        if (!is_tree(item, depth - 1))
            return false;
    }
    return json_is_array(value) || json_is_object(value) || is_scalar(value);
}

static bool is_list(const json_t *value)
{
    json_t *item;
    size_t n;

    json_array_foreach(value, n, item)
    {
        if (!is_scalar(item))
            return false;
    }
    return json_is_array(value) || is_scalar(value);
}

static int check_program(const struct walk *w, const json_t *value)
{
    const char *text = json_string_value(value);

    if (!text || !xen_is_base_name(text))
        return refuse(w, "expected a program's base name");
    if (w->allow && !xen_allow_has_program(w->allow, text))
        return ha_err_set(w->err, HA_E_USAGE, "%s: %.60s is not in this node's " XEN_ALLOW_PATH,
                          w->where, text);
    return 0;
}

static int check_path(const struct walk *w, const json_t *value)
{
    const char *text = json_string_value(value);

    if (!text || !xen_is_plain_path(text))
        return refuse(w, "expected an absolute path without . and ..");
    if (w->allow && !xen_allow_has_path(w->allow, text))
        return ha_err_set(w->err, HA_E_USAGE,
                          "%s: %.80s is below no root of this node's " XEN_ALLOW_PATH, w->where,
                          text);
    return 0;
}

static int check_object(struct walk *w, const json_t *value, const struct xen_key *keys);

static int check_objects(struct walk *w, const json_t *value, const struct xen_key *keys)
{
    json_t *item;
    size_t n;

    if (!json_is_array(value))
        return refuse(w, "expected a list");
    json_array_foreach(value, n, item)
    {
        int rc = check_object(w, item, keys);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int check_value(struct walk *w, const json_t *value, const struct xen_key *key,
                       const json_t *parent)
{
    switch (key->kind) {
    case XEN_KEY_SCALAR:
    case XEN_KEY_TEXT:
        return is_scalar(value) ? 0 : refuse(w, "expected one value, of printable text");
    case XEN_KEY_LIST:
        return is_list(value) ? 0 : refuse(w, "expected a list of values");
    case XEN_KEY_TREE:
        return is_tree(value, 6) ? 0 : refuse(w, "too deep, or not printable text");
    case XEN_KEY_PROGRAM:
        return is_nothing(value) ? 0 : check_program(w, value);
    case XEN_KEY_TARGET:
        if (!is_nothing(json_object_get(parent, "script")))
            return is_plain_text(value) ? 0 : refuse(w, "expected printable text");
        return is_nothing(value) ? 0 : check_path(w, value);
    case XEN_KEY_PATH:
        return is_nothing(value) ? 0 : check_path(w, value);
    case XEN_KEY_OBJECT:
        return check_object(w, value, key->keys);
    case XEN_KEY_OBJECTS:
        return check_objects(w, value, key->keys);
    case XEN_KEY_NOT:
        break;
    }
    return is_nothing(value) ? 0 : refuse(w, key->words);
}

static const struct xen_key *find_key(const struct xen_key *keys, const char *name)
{
    while (keys->name && strcmp(keys->name, name) != 0)
        keys++;
    return keys->name ? keys : NULL;
}

static int check_object(struct walk *w, const json_t *value, const struct xen_key *keys)
{
    size_t length = strlen(w->where);
    const char *name;
    json_t *item;

    if (!json_is_object(value))
        return refuse(w, "expected an object");
    json_object_foreach((json_t *)(uintptr_t)value, name, item)
    {
        const struct xen_key *key = find_key(keys, name);
        snprintf(w->where + length, WHERE_MAX - length, "%s%.60s", length > 0 ? "." : "", name);
        int rc = key ? check_value(w, item, key, value)
                     : refuse(w, "hamgr does not know this key, so it is refused");
        if (rc != 0)
            return rc;
        w->where[length] = '\0';
    }
    return 0;
}

/* ---- what hamgr needs of it --------------------------------------------------------------------
 */

static uint64_t number_of(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));

    return value > 0 ? (uint64_t)value : 0;
}

static const char *word_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static int read_kind(const json_t *c_info, const json_t *b_info, uint8_t *ret_kind,
                     struct ha_err *err)
{
    static const char *const names[] = {NULL, "pv", "pvh", "hvm"};
    const char *type = word_of(c_info, "type"), *built = word_of(b_info, "type");

    for (uint8_t n = XEN_KIND_PV; n <= XEN_KIND_HVM; n++)
        if (strcmp(type, names[n]) == 0 && (built[0] == '\0' || strcmp(type, built) == 0)) {
            *ret_kind = n;
            return 0;
        }
    return ha_err_set(err, HA_E_USAGE, "c_info.type, b_info.type: expected pv, pvh or hvm in both");
}

static int read_memory(const json_t *b_info, struct xen_definition *ret, struct ha_err *err)
{
    uint64_t target = number_of(b_info, "target_memkb");
    uint64_t vcpus = number_of(b_info, "max_vcpus");

    ret->mem_kib = number_of(b_info, "max_memkb");
    ret->vcpus = vcpus == 0 ? 1 : (uint32_t)(vcpus < UINT32_MAX ? vcpus : UINT32_MAX);
    if (ret->mem_kib < MEM_KIB_MIN || ret->mem_kib > MEM_KIB_MAX)
        return ha_err_set(err, HA_E_USAGE, "b_info.max_memkb: expected 1 MiB to 16 TiB");
    if (target != 0 && target + number_of(b_info, "video_memkb") < ret->mem_kib)
        return ha_err_set(err, HA_E_USAGE,
                          "b_info.target_memkb: less than max_memkb: memory is dedicated, no "
                          "ballooning (xl.cfg: no maxmem)");
    if (ret->vcpus > VCPUS_MAX)
        return ha_err_set(err, HA_E_USAGE, "b_info.max_vcpus: expected at most %u", VCPUS_MAX);
    ret->cap_percent =
        (uint32_t)(number_of(json_object_get(b_info, "sched_params"), "cap") & UINT16_MAX);
    return 0;
}

/* destroy: it has ended. restart: it starts anew. What keeps a dead domain around is refused: it
 * would hold memory that failover counts on. */
static int read_end(const json_t *root, const char *key, uint8_t usual, uint8_t *ret,
                    struct ha_err *err)
{
    const char *word = word_of(root, key);

    *ret = usual;
    if (strcmp(word, "destroy") == 0)
        *ret = HV_POWEROFF;
    else if (strcmp(word, "restart") == 0)
        *ret = HV_REBOOT;
    else if (word[0] != '\0' && strcmp(word, "soft_reset") != 0)
        return ha_err_set(err, HA_E_USAGE, "%s: %.40s: expected destroy or restart", key, word);
    return 0;
}

static int read_ends(const json_t *root, struct xen_ends *ret, struct ha_err *err)
{
    static const char *const others[] = {"on_watchdog", "on_crash", "on_soft_reset"};
    uint8_t ignored;
    int rc = read_end(root, "on_poweroff", HV_POWEROFF, &ret->on_poweroff, err);

    if (rc == 0)
        rc = read_end(root, "on_reboot", HV_REBOOT, &ret->on_reboot, err);
    /* Whether a crashed guest starts again is its policy's, with limits. */
    for (size_t n = 0; rc == 0 && n < sizeof(others) / sizeof(others[0]); n++)
        rc = read_end(root, others[n], HV_CRASHED, &ignored, err);
    return rc;
}

/* An HVM guest's first four disks are QEMU's as well, whatever their backend (libxl_dm.c): until
 * the guest's drivers unplug them, QEMU writes to them from this dom0, through its page cache. */
static bool is_emulated(const json_t *disk, uint8_t kind)
{
    const char *vdev = word_of(disk, "vdev");
    bool is_later_one = strncmp(vdev, "xvd", 3) == 0 && vdev[3] >= 'e' && vdev[3] <= 'z';

    return kind == XEN_KIND_HVM && !is_later_one;
}

static bool is_block_disk(const json_t *disk, uint8_t kind)
{
    const char *backend = word_of(disk, "backend"), *format = word_of(disk, "format");
    const char *path = word_of(disk, "pdev_path");
    bool is_phy = strcmp(backend, "phy") == 0 ||
                  (is_nothing(json_object_get(disk, "backend")) && kind != XEN_KIND_HVM);

    return is_phy && !is_emulated(disk, kind) &&
           (format[0] == '\0' || strcmp(format, "raw") == 0) && strncmp(path, "/dev/", 5) == 0 &&
           is_nothing(json_object_get(disk, "script"));
}

static uint8_t read_disks(const json_t *root, uint8_t kind)
{
    uint8_t found = XEN_DISKS_NONE;
    json_t *disk;
    size_t n;

    json_array_foreach(json_object_get(root, "disks"), n, disk)
    {
        const json_t *is_writable = json_object_get(disk, "readwrite");
        if (is_writable && is_nothing(is_writable))
            continue;
        if (!is_block_disk(disk, kind))
            return XEN_DISKS_OTHER;
        found = XEN_DISKS_BLOCK;
    }
    return found;
}

/* Values of which only some are harmless: QEMU takes files and pipes for these. */
static int check_words(const json_t *b_info, struct ha_err *err)
{
    const json_t *hvm = json_object_get(b_info, "type.hvm");
    const char *serial = word_of(hvm, "serial"), *usb = word_of(hvm, "usbdevice");

    if (serial[0] != '\0' && strcmp(serial, "pty") != 0 && strcmp(serial, "none") != 0)
        return ha_err_set(err, HA_E_USAGE, "b_info.type.hvm.serial: expected pty or none");
    if (usb[0] != '\0' && strcmp(usb, "tablet") != 0 && strcmp(usb, "mouse") != 0)
        return ha_err_set(err, HA_E_USAGE, "b_info.type.hvm.usbdevice: expected tablet or mouse");
    return 0;
}

static int read_names(const json_t *c_info, struct xen_definition *ret, struct ha_err *err)
{
    const char *name = word_of(c_info, "name"), *uuid = word_of(c_info, "uuid");

    if (name[0] != '\0' && !ha_name_is_valid(name))
        return ha_err_set(err, HA_E_USAGE,
                          "c_info.name: expected 1 to 63 of letters, digits, . _ -");
    snprintf(ret->name, sizeof(ret->name), "%s", name);
    if (uuid[0] != '\0' && ha_uuid_parse(uuid, &ret->uuid) != 0)
        return ha_err_set(err, HA_E_USAGE, "c_info.uuid: expected a uuid");
    return 0;
}

/* elevator=NAME of a kernel's command line, the last one; those that order nothing are none. */
static void read_elevator(const char *line, char ret_name[XEN_ELEVATOR_MAX])
{
    for (const char *at = line; *at != '\0';) {
        at += strspn(at, " \t");
        size_t size = strcspn(at, " \t");
        if (size > 9 && memcmp(at, "elevator=", 9) == 0)
            snprintf(ret_name, XEN_ELEVATOR_MAX, "%.*s", (int)(size - 9), at + 9);
        at += size;
    }
    if (strcmp(ret_name, "noop") == 0 || strcmp(ret_name, "none") == 0)
        ret_name[0] = '\0';
}

static int read_whole(const json_t *root, struct xen_definition *ret, struct ha_err *err)
{
    const json_t *c_info = json_object_get(root, "c_info");
    const json_t *b_info = json_object_get(root, "b_info");

    *ret = (struct xen_definition){0};
    int rc = read_kind(c_info, b_info, &ret->kind, err);
    if (rc == 0)
        rc = read_names(c_info, ret, err);
    if (rc == 0)
        rc = read_memory(b_info, ret, err);
    if (rc == 0)
        rc = check_words(b_info, err);
    if (rc == 0)
        rc = read_ends(root, &ret->ends, err);
    ret->disks = read_disks(root, ret->kind);
    read_elevator(word_of(b_info, "cmdline"), ret->elevator);
    return rc;
}

/* ---- entry points ------------------------------------------------------------------------------
 */

static json_t *load(const uint8_t *text, size_t size, json_error_t *ret_error)
{
    return json_loadb((const char *)text, size, JSON_REJECT_DUPLICATES, ret_error);
}

int xen_definition_parse(const uint8_t *text, size_t size, const struct xen_allow *allow,
                         struct xen_definition *ret, struct ha_err *err)
{
    struct walk w = {.allow = allow, .err = err};
    struct xen_definition found;
    json_error_t error;

    if (size > HA_DEFINITION_MAX)
        return ha_err_set(err, HA_E_USAGE, "definition of %zu bytes: expected at most %u", size,
                          HA_DEFINITION_MAX);
    json_t *root = load(text, size, &error);
    if (!root)
        return ha_err_set(err, HA_E_USAGE, "definition: no JSON: line %d: %.150s", error.line,
                          error.text);
    int rc = check_object(&w, root, xen_keys_root);
    if (rc == 0)
        rc = read_whole(root, &found, err);
    json_decref(root);
    if (rc == 0)
        *ret = found;
    else
        ha_err_prefix(err, "definition");
    return rc;
}

char *xen_definition_text(const uint8_t *text, size_t size)
{
    json_error_t error;
    json_t *root = load(text, size, &error);
    char *line = root ? json_dumps(root, JSON_COMPACT) : NULL;

    json_decref(root);
    return line;
}

char *xen_definition_identify(const uint8_t *text, size_t size, const char *name, const char *uuid)
{
    json_error_t error;
    json_t *root = load(text, size, &error);
    json_t *c_info = json_object_get(root, "c_info");
    char *line = NULL;

    if (json_is_object(c_info) && json_object_set_new(c_info, "name", json_string(name)) == 0 &&
        (!uuid || json_object_set_new(c_info, "uuid", json_string(uuid)) == 0))
        line = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return line;
}

bool xen_definition_is_json(const uint8_t *text, size_t size)
{
    for (size_t n = 0; n < size; n++)
        if (!strchr(" \t\r\n", text[n]) || text[n] == '\0')
            return text[n] == '{';
    return false;
}
