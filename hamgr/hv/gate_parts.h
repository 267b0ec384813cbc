/* SPDX-License-Identifier: Apache-2.0
 *
 * What the gate's files share. Private to gate*.c.
 *   gate.c        lease watch: page, clocks, rounds of pausing, proofs
 *   gate_verbs.c  what a request does
 *   gate_serve.c  connections: packets in, replies and events out
 *   gate_state.c  what a restarted gate remembers
 *   gate_ident.c  which boot of which machine this is
 */
#ifndef HAMGR_HV_GATE_PARTS_H
#define HAMGR_HV_GATE_PARTS_H

#include "hamgr/hv/gate.h"
#include "hamgr/hv/gate_fsm.h"
#include "hamgr/ipc/keeperproto.h"
#include "hamgr/ipc/sock.h"

/* A listing that fills this is not complete: a node never has so many guests. */
#define GATE_DOMAINS_MAX (HA_GUESTS_MAX + 1u)
#define GATE_PATH_MAX    256u

struct gate_peer;

/* A RUN that waits until the worker of its guest has reported. */
struct gate_wait {
    struct gate_peer *peer;
    uint64_t id;
    struct hvp_domain request;
    uint64_t close_count; /* the gate's when it was asked */
    struct gate_wait *next;
};

struct gate {
    qb_loop_t *loop;
    struct hv *hv;
    struct gate_options options;
    struct hv_caps caps;
    struct ha_uuid boot_id;
    struct ha_uuid hw_id;
    struct worker_pool *pool;

    struct gate_fsm fsm;
    bool has_hello;
    struct hvp_hello hello;

    char page_path[GATE_PATH_MAX];
    const struct keeper_page *page;
    dev_t page_dev;
    ino_t page_ino;
    int timer_fd;
    int keeper_fd;
    int event_fd;            /* the driver's; -1: poll */
    uint64_t listing_digest; /* of the last polled listing */

    /* The newest listing, and what was built since. Domids and labels never change, so verbs find
     * their domain here without a listing each; states are as old as the listing. */
    struct hv_domain *domains;
    uint32_t domain_count;
    bool is_incomplete; /* a build has ended since, and nobody knows how */
    uint32_t paused_count;
    char text[HA_TEXT_MAX]; /* what keeps the proof from being given */
    uint64_t text_told_ns;
    char text_told[HA_TEXT_MAX];

    int listen_fd;
    struct gate_peer *peers;
    struct gate_wait *waits;
    uint32_t wait_count;
    int changed_fd; /* eventfd: HVP_CHANGED is due */
    bool is_stopping;
};

/* gate.c */
uint64_t gate_now_ns(void);
/* A fresh listing into gate->domains; its count, or a negative error. */
int gate_list(struct gate *gate);
/* The listed domain of ours with this guest and epoch, or NULL. */
struct hv_domain *gate_find(struct gate *gate, struct ha_uuid guest, uint64_t epoch);
/* The same for a copy that is only to be stopped or removed: one of an earlier generation counts,
 * if there is none of this. */
struct hv_domain *gate_find_any(struct gate *gate, struct ha_uuid guest, uint64_t epoch);
/* The same from what is known, with a fresh listing only if it is not: its state may be old. NULL
 * and *ret_is_listed false: the listing failed. */
struct hv_domain *gate_know(struct gate *gate, struct ha_uuid guest, uint64_t epoch,
                            bool *ret_is_listed);
/* A copy was built: it is known now, or the next question lists. */
void gate_note_built(struct gate *gate, const struct hv_label *label, const char *name,
                     const struct hvp_done *done);
/* Asks the state machine, with the page and the clock read now. */
bool gate_may_run(struct gate *gate);
/* Looks at page and clocks and does what is due. */
void gate_tick(struct gate *gate);
/* What is told about the gate. */
void gate_describe(const struct gate *gate, struct hvp_gate *ret);

/* gate_verbs.c: each sends exactly one reply, now or later. fd is moved, -1 = none. */
void gate_verb(struct gate *gate, struct gate_peer *peer, const struct ha_packet *packet, int fd,
               int ring_fd);
void gate_job_progress(void *user, struct worker_job *job, const struct hv_progress *progress);
void gate_job_done(void *user, struct worker_job *job, const struct hvp_done *done);
void gate_job_idle(void *user);
/* The peer is going: its waiting runs are dropped, its saves and restores aborted. */
void gate_forget_peer(struct gate *gate, struct gate_peer *peer);
/* After a start: dirty tracking that workers of an earlier gate may have left on. */
void gate_clean_up(struct gate *gate);

/* gate_serve.c */
int gate_serve_open(struct gate *gate, struct ha_err *err);
void gate_serve_close(struct gate *gate);
void gate_send(struct gate_peer *peer, uint16_t type, uint64_t id, const struct ha_writer *body);
/* An event to every peer. */
void gate_send_all(struct gate *gate, uint16_t type, const struct ha_writer *body);
/* HVP_CHANGED to every peer, once per turn of the loop. */
void gate_tell_changed(struct gate *gate);
/* The peer broke the protocol or can't keep up: its connection ends soon. */
void gate_drop_peer(struct gate_peer *peer, const char *why);

/* gate_talk.c */
void gate_reply(struct gate_peer *peer, uint64_t id, enum hv_outcome outcome, uint64_t value,
                const char *text);
/* HVP_GATE to every peer. */
void gate_tell_gate(struct gate *gate);
void gate_serve_hello(struct gate *gate, struct gate_peer *peer, const struct ha_packet *packet);
void gate_serve_list(struct gate *gate, struct gate_peer *peer, uint64_t id);

/* gate_state.c */
void gate_state_load(struct gate *gate);
void gate_state_save(const struct gate *gate);

/* gate_ident.c: zero when the machine does not say. */
struct ha_uuid gate_boot_id(const char *ident_dir);
struct ha_uuid gate_hw_id(const char *ident_dir);

#endif
