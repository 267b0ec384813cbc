/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/xen/early.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* ---- whether ---- */

static bool is_plain_disk(const libxl_device_disk *disk)
{
    struct stat st;

    return !disk->script && !disk->is_cdrom && disk->format == LIBXL_DISK_FORMAT_RAW &&
           (disk->backend == LIBXL_DISK_BACKEND_UNKNOWN ||
            disk->backend == LIBXL_DISK_BACKEND_PHY) &&
           disk->pdev_path && stat(disk->pdev_path, &st) == 0 && S_ISBLK(st.st_mode);
}

static bool is_plain_card(const libxl_device_nic *nic)
{
    const char *slash = nic->script ? strrchr(nic->script, '/') : NULL;
    const char *script = slash ? slash + 1 : nic->script;

    return !script || strcmp(script, "vif-bridge") == 0;
}

static bool has_others(const libxl_domain_config *c)
{
    return c->num_pcidevs + c->num_rdms + c->num_dtdevs + c->num_vfbs + c->num_vkbs + c->num_vtpms +
               c->num_p9s + c->num_pvcallsifs + c->num_vdispls + c->num_vsnds + c->num_channels +
               c->num_usbctrls + c->num_usbdevs >
           0;
}

bool early_is_safe(const libxl_domain_config *config, enum xen_kind kind, enum xen_disks disks)
{
    bool is_safe = kind == XEN_KIND_PV && disks != XEN_DISKS_OTHER && !has_others(config);

    for (int n = 0; n < config->num_disks && is_safe; n++)
        is_safe = is_plain_disk(&config->disks[n]);
    for (int n = 0; n < config->num_nics && is_safe; n++)
        is_safe = is_plain_card(&config->nics[n]);
    return is_safe;
}

/* ---- meanwhile ---- */

bool early_offer(struct early *e)
{
    return helper_link_offer(&e->link, NULL) == 0;
}

void early_look(struct early *e, struct stand_in *s)
{
    if (e->link.fd < 0)
        return;
    helper_link_hear(&e->link, &e->mover);
    if (e->mover.is_early)
        stand_in_detach(s);
}

int early_watch(const struct early *e)
{
    return e->mover.is_gone ? -1 : e->link.fd;
}

static const char *trouble(const struct early *e)
{
    if (e->mover.is_done)
        return e->mover.why.code != 0 ? e->mover.why.text : NULL;
    return e->mover.is_gone ? "who restores its memory is gone" : NULL;
}

int early_whole(struct early *e, struct stand_in *s, const char **ret_why)
{
    early_look(e, s);
    if (!e->mover.is_early)
        return 1;
    *ret_why = trouble(e);
    if (*ret_why)
        return -1;
    if (!e->mover.is_done)
        return 0;
    bool is_over = stand_in_rest(s);
    *ret_why = s->why;
    return s->why ? -1 : is_over;
}

void early_end(struct early *e)
{
    helper_link_close(&e->link);
    if (e->mover.pid <= 0)
        return;
    (void)kill(e->mover.pid, SIGKILL); /* not reaped yet: the number is its own */
    while (waitpid(e->mover.pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    e->mover.pid = 0;
}
