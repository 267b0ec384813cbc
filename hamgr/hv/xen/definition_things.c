/* SPDX-License-Identifier: Apache-2.0
 *
 * What a definition names that lies outside of it: kernel, ramdisk, disks, bridges. A node that
 * lacks one of them can't run the guest.
 */
#include <jansson.h>
#include <string.h>

#include "hamgr/hv/xen/definition.h"

struct visit {
    xen_thing_fn fn;
    void *user;
};

static void tell(const struct visit *v, enum xen_thing kind, const json_t *object, const char *key)
{
    const char *name = json_string_value(json_object_get(object, key));

    bool is_named = name && (kind == XEN_THING_BRIDGE ? name[0] != '\0' : name[0] == '/');
    if (is_named)
        v->fn(v->user, kind, name);
}

/* A script's target is its own affair: an address, a name. */
static void tell_disk(const struct visit *v, const json_t *disk)
{
    const char *script = json_string_value(json_object_get(disk, "script"));
    const char *path = json_string_value(json_object_get(disk, "pdev_path"));

    const json_t *writable = json_object_get(disk, "readwrite");
    bool is_read =
        json_is_false(writable) || (json_is_integer(writable) && json_integer_value(writable) == 0);

    if ((!script || script[0] == '\0') && path && path[0] == '/')
        v->fn(v->user, is_read ? XEN_THING_MEDIUM : XEN_THING_DISK, path);
}

static void tell_all(const struct visit *v, const json_t *root)
{
    static const char *const kinds[] = {"type.pv", "type.hvm", "type.pvh"};
    const json_t *build = json_object_get(root, "b_info");
    const json_t *item;
    size_t n;

    tell(v, XEN_THING_FILE, build, "kernel");
    tell(v, XEN_THING_FILE, build, "ramdisk");
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        const json_t *kind = json_object_get(build, kinds[i]);
        tell(v, XEN_THING_FILE, kind, "kernel");
        tell(v, XEN_THING_FILE, kind, "ramdisk");
        tell(v, XEN_THING_FILE, kind, "firmware");
    }
    json_array_foreach(json_object_get(root, "disks"), n, item)
    {
        tell_disk(v, item);
    }
    json_array_foreach(json_object_get(root, "nics"), n, item)
    {
        tell(v, XEN_THING_BRIDGE, item, "bridge");
    }
}

void xen_definition_things(const uint8_t *text, size_t size, xen_thing_fn fn, void *user)
{
    const struct visit v = {.fn = fn, .user = user};
    json_t *root = json_loadb((const char *)text, size, 0, NULL);

    if (root)
        tell_all(&v, root);
    json_decref(root);
}
