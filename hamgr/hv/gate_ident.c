/* SPDX-License-Identifier: Apache-2.0
 *
 * Which boot of which machine this is. A node in a namespace has files of its own for both, fresh
 * per boot and fixed per node; they win. A machine that does not tell its hardware id (no DMI)
 * gets the zero id: coming back with a new boot id is then no evidence about the old boot.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hamgr/hv/gate_parts.h"

#define BOOT_ID_PATH "/proc/sys/kernel/random/boot_id"
#define HW_ID_PATH   "/sys/class/dmi/id/product_uuid"

/* Firmware that was never given an id says all ones: shared by every such machine. */
static bool is_unset(struct ha_uuid id)
{
    struct ha_uuid ones;

    memset(ones.b, 0xff, sizeof(ones.b));
    return ha_uuid_is_zero(id) || ha_uuid_equal(id, ones);
}

static bool read_id(const char *path, struct ha_uuid *ret_id)
{
    char text[HA_UUID_TEXT] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return false;
    ssize_t size = read(fd, text, HA_UUID_TEXT - 1);
    close(fd);
    if (size != HA_UUID_TEXT - 1)
        return false;
    text[size] = '\0';
    return ha_uuid_parse(text, ret_id) == 0 && !is_unset(*ret_id);
}

static struct ha_uuid read_first(const char *dir, const char *name, const char *machine_path)
{
    struct ha_uuid id = {{0}};
    char path[GATE_PATH_MAX];
    int length = snprintf(path, sizeof(path), "%s/%s", dir, name);

    if (length > 0 && length < (int)sizeof(path) && read_id(path, &id))
        return id;
    if (read_id(machine_path, &id))
        return id;
    return (struct ha_uuid){{0}};
}

struct ha_uuid gate_boot_id(const char *ident_dir)
{
    return read_first(ident_dir, "boot_id", BOOT_ID_PATH);
}

struct ha_uuid gate_hw_id(const char *ident_dir)
{
    return read_first(ident_dir, "product_uuid", HW_ID_PATH);
}
