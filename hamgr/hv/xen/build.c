/* SPDX-License-Identifier: Apache-2.0
 *
 * Create and restore: a record first, then a domain of that domid, paused by the controller from
 * its first instant. A restore has another name until libxl has made it, and holds a claim on its
 * memory from the moment its domain exists.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hamgr/hv/xen/definition.h"
#include "hamgr/hv/xen/early.h"
#include "hamgr/hv/xen/work.h"

#define LOOK_MS 100 /* what is waited for wakes us; a stream that is taken away does not */
/* Another toolstack may take a domid of ours between two looks. */
#define TRIES 3

struct build {
    struct hv_xen *x;
    struct lx *lx;
    struct xen_allow *allow;
    struct xen_definition definition;
    struct xen_record record;
    libxl_domain_config config;
    uint32_t domid; /* libxl writes it */
    bool is_restore;
    bool is_claimed;
    bool is_named; /* restore: as it is to be called */
    bool is_aborted;
    const char *why;
    struct stream_mark mark;
    struct stand_in stand_in;
    struct early early;
    int fd;
    libxl_domain_restore_params params;
    struct lx_op op;
};

/* ---- before ---- */

struct search {
    const struct hv_label *label;
    bool is_found;
};

static void compare(void *user, const struct xen_look *look)
{
    struct search *s = user;
    const struct hv_label *a = &look->record.label, *b = s->label;

    s->is_found |= look->is_ours && a->epoch == b->epoch && a->generation == b->generation &&
                   ha_uuid_equal(a->guest, b->guest) && ha_uuid_equal(a->cluster_id, b->cluster_id);
}

static int check_new(struct hv_xen *x, const struct hv_label *label, struct ha_err *err)
{
    struct search s = {.label = label};
    int rc = xen_look_all(x, compare, &s);

    if (rc != 0)
        return ha_err_set(err, -rc, "the hypervisor does not list its domains");
    return s.is_found ? ha_err_set(err, HA_E_EXISTS, "this copy exists already") : 0;
}

static int parse(struct build *b, const uint8_t *definition, size_t size, struct ha_err *err)
{
    int rc = xen_allow_load(b->x->allow_path, b->allow, err);

    if (rc == 0)
        rc = xen_definition_parse(definition, size, b->allow, &b->definition, err);
    if (rc == 0 && !ha_uuid_is_zero(b->definition.uuid) &&
        !ha_uuid_equal(b->definition.uuid, b->record.label.guest))
        rc = ha_err_set(err, HA_E_USAGE, "definition: c_info.uuid is another guest's");
    return rc;
}

/* Links must not lead out of the roots either. */
static int check_file(const struct build *b, const char *what, const char *path, struct ha_err *err)
{
    char real[PATH_MAX];

    if (!path || path[0] == '\0')
        return 0;
    if (!realpath(path, real))
        return ha_err_set(err, errno, "%s %.120s: %s", what, path, strerror(errno));
    if (!xen_allow_has_path(b->allow, real))
        return ha_err_set(err, HA_E_REFUSED, "%s %.80s: %.80s is below no root of %s", what, path,
                          real, b->x->allow_path);
    return 0;
}

static int check_files(const struct build *b, struct ha_err *err)
{
    int rc = 0;

    /* A restored guest brings its kernel in its memory. */
    if (!b->is_restore)
        rc = check_file(b, "kernel", b->config.b_info.kernel, err);
    if (rc == 0 && !b->is_restore)
        rc = check_file(b, "ramdisk", b->config.b_info.ramdisk, err);
    for (int n = 0; rc == 0 && n < b->config.num_disks; n++)
        if (!b->config.disks[n].script)
            rc = check_file(b, "disk", b->config.disks[n].pdev_path, err);
    return rc;
}

static int load_config(struct build *b, const uint8_t *definition, size_t size, struct ha_err *err)
{
    char *text = xen_definition_text(definition, size);
    int rc = text ? libxl_domain_config_from_json(lx_ctx(b->lx), &b->config, text) : ERROR_NOMEM;

    free(text);
    if (rc != 0)
        return ha_err_set(err, HA_E_USAGE, "definition: %.200s", lx_words(b->lx));
    return check_files(b, err);
}

/* What is ours to say, whatever the definition says. */
static int set_identity(struct build *b, struct ha_err *err)
{
    libxl_domain_create_info *info = &b->config.c_info;
    char name[HA_NAME_MAX + 40];

    snprintf(name, sizeof(name), "%s", b->record.name);
    if (b->is_restore)
        snprintf(name, sizeof(name), "%s--incoming-%llu", b->record.name,
                 (unsigned long long)b->record.label.epoch);
    free(info->name);
    info->name = strdup(name);
    memcpy(info->uuid.uuid, b->record.label.guest.b, sizeof(info->uuid.uuid));
    info->domid = b->record.domid;
    /* libxl claims memory when it builds, not when it restores: claim() does that. */
    libxl_defbool_set(&b->config.b_info.claim_mode, !b->is_restore);
    return info->name ? 0 : ha_err_set(err, HA_E_NO_MEMORY, "a domain's name");
}

static void fill_record(struct build *b)
{
    b->record.phase = XEN_BUILDING;
    b->record.kind = b->definition.kind;
    b->record.disks = b->definition.disks;
    b->record.ends = b->definition.ends;
    b->record.is_restored = b->is_restore;
    b->record.vcpus = b->definition.vcpus;
    b->record.cap_percent = b->definition.cap_percent;
    b->record.mem_kib = b->definition.mem_kib;
    b->record.builder = (uint32_t)getpid();
}

/* ---- meanwhile ---- */

/* Without a claim two guests that arrive together may both see enough memory. */
static void claim(struct build *b)
{
    struct xen_look look;

    if (b->is_claimed || !b->is_restore || xen_look_at(b->x, b->record.domid, &look) != 1 ||
        !look.is_ours)
        return;
    b->is_claimed = true;
    if (xc_domain_claim_pages(b->x->xc, b->record.domid, b->record.mem_kib / PAGE_KIB) != 0 &&
        errno == ENOMEM)
        b->why = "the hypervisor has not enough memory left";
}

/* Scripts of devices that are made early are not killed: libxl takes back what they did when they
 * have ended, and nobody waits for it any more. */
static void stop(struct build *b, struct lx_op *op)
{
    if (!b->early.mover.is_early) {
        lx_stop(op, b->why);
        return;
    }
    stand_in_refuse(&b->stand_in, b->why);
    early_end(&b->early);
    op->wake_fd = -1;
}

static void look_around(void *user, struct lx_op *op)
{
    struct build *b = user;

    if (!b->is_aborted)
        claim(b);
    early_look(&b->early, &b->stand_in);
    op->wake_fd = early_watch(&b->early);
    if (b->is_restore && !b->why && stream_is_taken_away(&b->mark))
        b->why = "aborted";
    b->is_aborted = b->why != NULL;
    op->is_calm = b->is_claimed;
    if (b->is_aborted)
        stop(b, op);
}

/* Taken on this node by another domain: then it keeps the other one. */
static void give_name(struct build *b)
{
    if (!b->is_restore || b->is_named)
        return;
    b->is_named = true;
    (void)libxl_domain_rename(lx_ctx(b->lx), b->record.domid, b->config.c_info.name,
                              b->record.name);
}

/* libxl has made its devices; is its memory there, and was its stream whole? */
static int await_memory(struct build *b)
{
    const char *why = NULL;
    int whole = 0;

    if (b->early.mover.is_early) /* a score of requests to xenstored, while its guest still runs */
        give_name(b);
    while ((whole = early_whole(&b->early, &b->stand_in, &why)) == 0 && !b->is_aborted) {
        bool is_moved = b->early.mover.is_done;
        struct pollfd fds[2] = {{.fd = early_watch(&b->early), .events = POLLIN},
                                {.fd = is_moved ? b->fd : -1, .events = POLLIN}};
        (void)poll(fds, 2, LOOK_MS);
        look_around(b, &b->op);
        lx_tell(&b->op);
    }
    if (whole < 0 && !b->why)
        b->why = why;
    return whole == 1 && !b->why ? 0 : ERROR_FAIL;
}

/* Where it is not, libxl makes the devices when memory is there, as ever. */
static void offer_early(struct build *b)
{
    b->op.wake_fd = -1;
    if (!b->x->has_helper || !early_is_safe(&b->config, b->definition.kind, b->definition.disks) ||
        !early_offer(&b->early))
        return;
    b->op.is_told_otherwise = true;
    b->op.wake_fd = early_watch(&b->early);
}

static int restore(struct build *b)
{
    if (stand_in_open(&b->stand_in, b->fd, false, NULL) != 0) {
        b->why = "no memory or no descriptor is left for its stream";
        return ERROR_FAIL;
    }
    b->op.stand_in = &b->stand_in;
    offer_early(b);
    int rc = libxl_domain_create_restore(lx_ctx(b->lx), &b->config, &b->domid, b->stand_in.libxl_fd,
                                         -1, &b->params, &b->op.how, NULL);
    stand_in_begun(&b->stand_in);
    rc = lx_wait(&b->op, rc, 0, look_around, b);
    if (rc == 0)
        rc = await_memory(b);
    early_end(&b->early);
    stand_in_close(&b->stand_in);
    if (!b->why)
        b->why = b->stand_in.why;
    return b->why ? ERROR_FAIL : rc;
}

static int make(struct build *b)
{
    lx_begin(b->lx, &b->op);
    b->domid = (uint32_t)INVALID_DOMID;
    b->is_claimed = false;
    if (b->is_restore)
        return restore(b);
    int rc = libxl_domain_create_new(lx_ctx(b->lx), &b->config, &b->domid, &b->op.how, NULL);
    return lx_wait(&b->op, rc, 0, look_around, b);
}

/* ---- afterwards ---- */

/* A restored QEMU waits to be told to go on, and libxl tells it when it unpauses the domain; with
 * one more pause the domain itself does not. */
static int wake_emulator(struct build *b, struct ha_err *err)
{
    struct lx_op op = {0};

    if (b->definition.kind != XEN_KIND_HVM)
        return 0;
    if (xc_domain_pause(b->x->xc, b->record.domid) != 0)
        return ha_err_set(err, errno, "pause: %s", strerror(errno));
    lx_begin(b->lx, &op);
    int rc = libxl_domain_unpause(lx_ctx(b->lx), b->record.domid, &op.how);
    rc = lx_wait(&op, rc, 0, NULL, NULL);
    return rc == 0 ? 0 : ha_err_set(err, HA_E_UNKNOWN, "%.200s", lx_words(b->lx));
}

static bool is_whole(struct build *b, struct ha_err *err)
{
    struct xen_look look;

    if (!xen_look_ours(b->x, b->record.domid, &look, err))
        return false;
    if (!look.facts.is_paused || look.facts.is_shutdown || look.facts.is_dying) {
        ha_err_set(err, HA_E_UNKNOWN, "it is not paused");
        return false;
    }
    return true;
}

static enum hv_outcome complete(struct build *b, struct ha_err *err)
{
    if (b->is_claimed)
        (void)xc_domain_claim_pages(b->x->xc, b->record.domid, 0);
    if (b->is_restore && lx_unlike(b->lx)) {
        ha_err_set(err, HA_E_CORRUPT, "memory did not arrive as it left: %.160s", lx_unlike(b->lx));
        return HV_FAILED;
    }
    if (wake_emulator(b, err) != 0 || !is_whole(b, err))
        return HV_FAILED;
    give_name(b);
    b->record.phase = XEN_COMPLETE;
    return xen_record_write(b->x->dir_fd, &b->record, err) == 0 ? HV_OK : HV_FAILED;
}

/* Nothing of it may stay: libxl keeps what an abort left of a restore. */
static enum hv_outcome clear(struct build *b, struct ha_err *err)
{
    struct ha_err other = {0};
    struct xen_look look;
    int rc = xen_look_at(b->x, b->record.domid, &look);

    if (rc == 1 && look.is_ours && xen_remove(b->x, b->record.domid, &other) != HV_OK)
        rc = -HA_E_UNKNOWN;
    if (rc < 0)
        return hv_unknown(err, HA_E_UNKNOWN, "%.120s; its domain %u does not go: %.80s",
                          err ? err->text : "", b->record.domid, other.text);
    xen_record_remove(b->x->dir_fd, b->record.domid);
    return HV_FAILED;
}

/* Is another domain there in the place of ours? */
static bool is_taken(struct build *b)
{
    struct xen_look look;

    return xen_look_at(b->x, b->record.domid, &look) == 1 && !look.is_ours;
}

static enum hv_outcome build_once(struct build *b, bool *ret_is_taken, struct ha_err *err)
{
    char words[HA_TEXT_MAX];

    *ret_is_taken = false;
    fill_record(b);
    if (xen_record_add(b->x->dir_fd, &b->record, err) != 0)
        return HV_FAILED;
    int rc = set_identity(b, err) == 0 ? make(b) : ERROR_NOMEM;
    if (rc == 0 && !b->is_aborted && complete(b, err) == HV_OK)
        return HV_OK;
    if (rc != 0 || b->is_aborted) {
        xen_helper_words(b->is_restore && b->x->has_helper, lx_words(b->lx), words);
        hv_failed(err, b->is_aborted ? HA_E_CANCELLED : HA_E_UNKNOWN, "%.240s",
                  b->why ? b->why : words);
    }
    *ret_is_taken = is_taken(b);
    return clear(b, err);
}

static enum hv_outcome build(struct build *b, const uint8_t *definition, size_t size,
                             struct ha_err *err)
{
    enum hv_outcome outcome = HV_FAILED;
    bool is_again = true;

    if (check_new(b->x, &b->record.label, err) != 0 || parse(b, definition, size, err) != 0)
        return HV_FAILED;
    b->lx = xen_lx(b->x, err);
    if (!b->lx)
        return HV_FAILED;
    libxl_domain_config_init(&b->config);
    /* A restore has one try: the next would not find the beginning of its stream. */
    if (load_config(b, definition, size, err) == 0)
        for (int n = 0; n < (b->is_restore ? 1 : TRIES) && is_again && outcome == HV_FAILED; n++)
            outcome = build_once(b, &is_again, err);
    libxl_domain_config_dispose(&b->config);
    return outcome;
}

static struct build *begin(struct hv *hv, const struct hv_label *label, const char *name,
                           struct ha_err *err)
{
    struct build *b = calloc(1, sizeof(*b));

    if (b)
        b->allow = calloc(1, sizeof(*b->allow));
    if (!b || !b->allow) {
        free(b);
        ha_err_set(err, HA_E_NO_MEMORY, "a domain");
        return NULL;
    }
    b->x = xen_of(hv);
    b->early.link = (struct helper_link){.fd = -1, .inherited = -1};
    b->record.label = *label;
    snprintf(b->record.name, sizeof(b->record.name), "%s", name);
    return b;
}

static void end(struct build *b)
{
    free(b->allow);
    free(b);
}

enum hv_outcome xen_create(struct hv *hv, const struct hv_label *label, const char *name,
                           const uint8_t *definition, size_t size, struct ha_err *err)
{
    struct build *b = begin(hv, label, name, err);

    if (!b)
        return HV_FAILED;
    enum hv_outcome outcome = build(b, definition, size, err);
    end(b);
    return outcome;
}

enum hv_outcome xen_restore(struct hv *hv, const struct hv_label *label, const char *name,
                            const uint8_t *definition, size_t size, int fd, int ring_fd,
                            hv_progress_fn progress, void *user, uint32_t *ret_domid,
                            struct ha_err *err)
{
    struct build *b = begin(hv, label, name, err);
    enum hv_outcome outcome = HV_FAILED;

    (void)ring_fd; /* not offered: libxl's restore, and our helper's, read the stream only */
    if (!b)
        return HV_FAILED;
    b->is_restore = true;
    b->fd = fd;
    b->op = (struct lx_op){.progress = progress, .user = user, .now = {.phase = HV_LIVE}};
    libxl_domain_restore_params_init(&b->params);
    b->params.stream_version = 2;
    (void)xen_use_helper(b->x);
    if (stream_mark_take(&b->mark, fd, err) == 0)
        outcome = build(b, definition, size, err);
    if (outcome == HV_OK)
        *ret_domid = b->record.domid;
    libxl_domain_restore_params_dispose(&b->params);
    end(b);
    return outcome;
}
