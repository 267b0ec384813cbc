/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/xen/helper/bound.h"

#include <dlfcn.h>
#include <link.h>
#include <string.h>

static bool is_symbolic(const struct link_map *map)
{
    for (const ElfW(Dyn) *entry = map->l_ld; entry->d_tag != DT_NULL; entry++)
        if (entry->d_tag == DT_SYMBOLIC ||
            (entry->d_tag == DT_FLAGS && (entry->d_un.d_val & DF_SYMBOLIC)))
            return true;
    return false;
}

bool helper_can_bind(void)
{
    void *self = dlopen(NULL, RTLD_NOW);
    struct link_map *map = NULL;
    bool has_guest = false, is_fine = true;

    if (!self || dlinfo(self, RTLD_DI_LINKMAP, &map) != 0)
        return false;
    for (; map; map = map->l_next) {
        const char *name = strrchr(map->l_name, '/');
        if (!name || strncmp(name, "/libxen", 7) != 0)
            continue;
        has_guest |= strncmp(name, "/libxenguest", 12) == 0;
        is_fine &= !is_symbolic(map);
    }
    dlclose(self);
    return has_guest && is_fine;
}
