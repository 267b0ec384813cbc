/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgrd <-> hamgr-hv, at /run/hamgr/hv.sock. Requests carry an id; each gets exactly one HVP_DONE
 * with the same id (HVP_LIST: a HVP_DOMAINS). Events have id 0. When the connection ends, hamgr-hv
 * lets guests run and aborts nothing but saves and restores of that connection.
 */
#ifndef HAMGR_IPC_HVPROTO_H
#define HAMGR_IPC_HVPROTO_H

#include "hamgr/base/bytes.h"
#include "hamgr/hv/hv.h"

#define HVP_SOCKET HA_SOCK_DIR "/hv.sock"
/* Of all layouts below; goes up when one changes. Said at the end of HELLO: who is another's is
 * dropped before anything it says can be misread. */
#define HVP_VERSION 4u

enum hvp_type {
    /* requests */
    HVP_HELLO = 1,      /* body hvp_hello: who we are. Reply HVP_WELCOME (hvp_welcome) */
    HVP_LIST,           /* no body. Reply HVP_DOMAINS */
    HVP_CREATE,         /* hvp_create: leaves it PAUSED */
    HVP_RUN,            /* hvp_domain: gate-checked last */
    HVP_PAUSE,          /* hvp_domain */
    HVP_SHUTDOWN,       /* hvp_domain, timeout_ms; then destroys it */
    HVP_DESTROY,        /* hvp_domain */
    HVP_SAVE,           /* hvp_save; fds[0] = stream end (moved), fds[1] = ring's memfd or none */
    HVP_RESTORE,        /* hvp_create; fds[0] = stream end (moved). Leaves it PAUSED */
    HVP_ABORT,          /* hvp_abort: cancels the save or restore with that request id */
    HVP_RESUME_PREPARE, /* hvp_domain */
    HVP_DIRTY_SAMPLE,   /* hvp_domain, timeout_ms = sample; HVP_DONE.value = pages/s */
    HVP_THROTTLE,       /* hvp_domain, timeout_ms = percent */
    HVP_RESERVE,        /* hvp_create without definition: memory promise */
    HVP_RELEASE,        /* hvp_domain */
    HVP_LOOK,           /* look_ask (hamgr/doctor); fds[0] = memfd (moved) for the look_tell */
    /* replies and events */
    HVP_WELCOME = 64,
    HVP_DOMAINS,  /* hvp_domains */
    HVP_DONE,     /* hvp_done */
    HVP_PROGRESS, /* id of the save or restore; body hvp progress */
    HVP_CHANGED,  /* event: some domain changed by itself; LIST again. No body */
    HVP_GATE,     /* event hvp_gate: the gate closed or opened, or guests were proven quiet */
};

struct hvp_hello {
    struct ha_uuid cluster_id;
    uint64_t generation;
    bool is_disarmed; /* a disarmed node does not pause at lease end; re-sent when it changes */
    bool is_frozen;
    bool is_stale; /* both flags may be out of date: keep what was said before */
};

struct hvp_welcome {
    struct hv_caps caps;
    struct ha_uuid boot_id;
    struct ha_uuid hw_id;
};

struct hvp_domain {
    struct ha_uuid guest;
    uint64_t epoch;
    uint32_t timeout_ms; /* SHUTDOWN: then destroy. Others: see type */
};

struct hvp_create {
    struct ha_uuid guest;
    uint64_t epoch;
    uint64_t mem_kib;
    char name[HA_NAME_MAX];
    const uint8_t *definition; /* borrowed */
    size_t definition_size;
};

struct hvp_save {
    struct ha_uuid guest;
    uint64_t epoch;
    bool is_live;
    uint32_t max_downtime_ms;
    uint32_t deadline_ms;
    uint8_t on_slow;    /* enum hv_on_slow */
    uint32_t switch_us; /* as in hv_save_params */
};

struct hvp_abort {
    uint64_t id;
};

struct hvp_done {
    uint8_t outcome; /* enum hv_outcome */
    uint64_t value;
    char text[HA_TEXT_MAX]; /* why, when not HV_OK */
};

struct hvp_gate {
    bool is_open;        /* guests may be made runnable */
    bool is_quarantined; /* all paused and proven quiet */
    uint32_t paused_count;
    char text[HA_TEXT_MAX]; /* what keeps the proof from being given, else empty */
};

/* One HVP_DOMAINS holds all domains of the node, or the next part of them. */
#define HVP_DOMAINS_PER_PACKET 512u
struct hvp_domains {
    bool is_last;
    uint32_t count;
    struct hv_domain list[HVP_DOMAINS_PER_PACKET];
};

void hvp_hello_encode(struct ha_writer *w, const struct hvp_hello *m);
/* -HA_E_VERSION: of another HVP_VERSION, or of before there was one. */
int hvp_hello_decode(const uint8_t *body, size_t size, struct hvp_hello *ret);
void hvp_welcome_encode(struct ha_writer *w, const struct hvp_welcome *m);
int hvp_welcome_decode(const uint8_t *body, size_t size, struct hvp_welcome *ret);
void hvp_domain_encode(struct ha_writer *w, const struct hvp_domain *m);
int hvp_domain_decode(const uint8_t *body, size_t size, struct hvp_domain *ret);
void hvp_create_encode(struct ha_writer *w, const struct hvp_create *m);
int hvp_create_decode(const uint8_t *body, size_t size, struct hvp_create *ret);
void hvp_save_encode(struct ha_writer *w, const struct hvp_save *m);
int hvp_save_decode(const uint8_t *body, size_t size, struct hvp_save *ret);
void hvp_abort_encode(struct ha_writer *w, const struct hvp_abort *m);
int hvp_abort_decode(const uint8_t *body, size_t size, struct hvp_abort *ret);
void hvp_done_encode(struct ha_writer *w, const struct hvp_done *m);
int hvp_done_decode(const uint8_t *body, size_t size, struct hvp_done *ret);
void hvp_gate_encode(struct ha_writer *w, const struct hvp_gate *m);
int hvp_gate_decode(const uint8_t *body, size_t size, struct hvp_gate *ret);
void hvp_progress_encode(struct ha_writer *w, const struct hv_progress *m);
int hvp_progress_decode(const uint8_t *body, size_t size, struct hv_progress *ret);
void hvp_domains_encode(struct ha_writer *w, const struct hvp_domains *m);
int hvp_domains_decode(const uint8_t *body, size_t size, struct hvp_domains *ret);

#endif
