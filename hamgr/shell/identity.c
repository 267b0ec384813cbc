/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/shell/identity.h"

#include <errno.h>
#include <stdio.h>

static bool read_line(const char *path, char *ret_line, size_t size)
{
    FILE *file = fopen(path, "re");
    bool is_read = false;

    if (!file)
        return false;
    if (fgets(ret_line, (int)size, file)) {
        ret_line[strcspn(ret_line, "\n")] = '\0';
        is_read = true;
    }
    fclose(file);
    return is_read;
}

/* machine-id has no dashes: puts them where a uuid has them. */
static void add_dashes(char *line, size_t size)
{
    char dashed[HA_UUID_TEXT];

    if (strlen(line) != 32 || size < sizeof(dashed))
        return;
    snprintf(dashed, sizeof(dashed), "%.8s-%.4s-%.4s-%.4s-%.12s", line, line + 8, line + 12,
             line + 16, line + 20);
    memcpy(line, dashed, sizeof(dashed));
}

bool identity_first(const char *const *paths, struct ha_uuid *ret_id)
{
    char line[80];

    for (; *paths; paths++) {
        if (!read_line(*paths, line, sizeof(line)))
            continue;
        add_dashes(line, sizeof(line));
        if (ha_uuid_parse(line, ret_id) == 0 && !ha_uuid_is_zero(*ret_id))
            return true;
    }
    return false;
}

int identity_read(struct ha_uuid *ret_boot_id, struct ha_uuid *ret_hw_id, struct ha_err *err)
{
    static const char *const boot_paths[] = {"/run/hamgr-node/boot_id",
                                             "/proc/sys/kernel/random/boot_id", NULL};
    static const char *const hw_paths[] = {
        "/run/hamgr-node/product_uuid", "/run/hamgr/product_uuid", "/sys/class/dmi/id/product_uuid",
        "/etc/machine-id", NULL};

    if (!identity_first(boot_paths, ret_boot_id))
        return ha_err_set(err, ENOENT, "no boot id in %s or %s", boot_paths[0], boot_paths[1]);
    if (!identity_first(hw_paths, ret_hw_id))
        return ha_err_set(err, ENOENT, "no machine id in %s, %s, %s or %s", hw_paths[0],
                          hw_paths[1], hw_paths[2], hw_paths[3]);
    return 0;
}
