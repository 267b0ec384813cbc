/* SPDX-License-Identifier: Apache-2.0
 *
 * What hamgrds tell each other beside the log, over the same group: reports about themselves, the
 * hand-over of migrations, state transfer. None of it decides anything by itself: a lost or
 * repeated one costs time only. Pure encoding; every decode checks everything.
 */
#ifndef HAMGR_SHELL_MESSAGE_H
#define HAMGR_SHELL_MESSAGE_H

#include "hamgr/base/bytes.h"
#include "hamgr/core/runtime.h"
#include "hamgr/doctor/bars.h"
#include "hamgr/doctor/facts.h"
#include "hamgr/hv/precopy.h"
#include "hamgr/ipc/fenceproto.h"

#define PEER_MAGIC   0x31534d48u /* "HMS1"; the log's messages have their own */
#define PEER_VERSION 5u          /* goes up when a layout below changes */

enum peer_type {
    PEER_REPORT = 1,    /* peer_report */
    PEER_DEVICES,       /* peer_devices: fence devices this node can drive */
    PEER_FENCE_RUN,     /* peer_fence: please run a device; from the leader */
    PEER_FENCE_RESULT,  /* peer_fence */
    PEER_MOVE_READY,    /* peer_move_ready: destination -> source */
    PEER_HANDOVER,      /* peer_ticket: source -> destination: suspended, drained */
    PEER_MOVE_PROGRESS, /* ha_move_progress: source or destination -> all */
    PEER_SNAPSHOT,      /* peer_chunk: state transfer */
    PEER_SNAPSHOT_ACK,  /* peer_chunk without data */
    PEER_FORECAST_ASK,  /* peer_forecast: to the guest's node */
    PEER_FORECAST_TELL, /* peer_forecast: the answer */
    PEER_FACTS_ASK,     /* peer_facts_ask: what doctor or a check wants to know; to all */
    PEER_FACTS_TELL,    /* peer_facts_tell */
    PEER_THINGS,        /* peer_things: what guests need, as found here; to all */
    PEER_PROBE_ASK,     /* peer_probe's id: the link to this node is to be measured */
    PEER_PROBE_READY,   /* peer_probe: the answer */
};

struct peer_header {
    uint8_t type; /* enum peer_type */
    struct ha_uuid cluster_id;
    uint64_t generation;
    uint64_t nonce; /* sending process */
    uint32_t to;    /* node, 0 = all */
};

#define PEER_DEVICES_MAX HA_DEVICES_MAX
struct peer_devices {
    uint32_t count;
    struct fencep_device list[PEER_DEVICES_MAX];
};

struct peer_fence {
    uint64_t id; /* leader's */
    struct fencep_run run;
    struct fencep_result result; /* in PEER_FENCE_RESULT */
};

struct peer_move_ready {
    uint64_t ticket;
    uint16_t port;
    char addr[HA_ADDR_MAX];
    uint8_t secret[32];
};

struct peer_ticket {
    uint64_t ticket;
};

/* A question about a migration, and its answer. */
struct peer_forecast {
    uint64_t id; /* the asker's */
    struct ha_uuid guest;
    uint32_t dst;
    uint32_t max_downtime_ms; /* to be kept */
    /* the answer */
    bool is_ok;
    uint8_t rate_from; /* enum precopy_rate_from */
    uint64_t dirty_bytes_s;
    uint64_t rate_bytes_s;
    uint64_t link_bytes_s; /* as just measured, 0 = it was not */
    uint32_t link_rtt_us;  /* 0 = not known */
    struct precopy_forecast forecast;
    char link_text[HA_TEXT_MAX]; /* why it was not */
    char text[HA_TEXT_MAX];      /* why not */
};

/* Where a probe of the link may go, once; or why not. */
struct peer_probe {
    uint64_t id; /* the asker's, random */
    bool is_ok;
    uint16_t port;
    char addr[HA_ADDR_MAX];
    uint8_t secret[32];
    char text[HA_TEXT_MAX]; /* why not */
};

/* A question of doctor's, or of a check whether a guest can run, and a node's answer. */
#define PEER_LOOK_MAX 64u
struct peer_facts_ask {
    uint64_t id; /* the asker's */
    uint32_t thing_count;
    struct look_thing things[PEER_LOOK_MAX];
};

struct peer_facts_tell {
    uint64_t id;
    struct ha_facts facts;
    uint32_t found_count; /* as many as were asked for, in their order */
    struct look_found found[PEER_LOOK_MAX];
};

/* What a node found of the things that definitions name, and what its hypervisor offers. */
#define PEER_THINGS_MAX 1700u
struct peer_things {
    bool is_paging_known, has_shadow, has_hap;
    struct ha_bars_cpu cpu;
    uint32_t count;
    struct ha_found found[PEER_THINGS_MAX]; /* ascending by key */
};

struct peer_chunk {
    uint64_t transfer; /* sender's number of this transfer */
    uint64_t index;    /* snapshot's */
    struct ha_digest digest;
    struct log_view view;
    uint64_t total;      /* bytes */
    uint64_t offset;     /* of data; in an ack: received so far */
    const uint8_t *data; /* borrowed */
    size_t size;
};

/* What is put behind each message between hamgrds, the log's too: of its bytes and its sender. */
struct ha_digest peer_digest(uint32_t node, const uint8_t *data, size_t size);
/* Takes that digest off *size; false, and *size as it was, if it is another. The sender's node is
 * in it: a message that comes again from another node does not pass for one of that node's. */
bool peer_is_whole(uint32_t from, const uint8_t *data, size_t *size);

void peer_header_encode(struct ha_writer *w, const struct peer_header *m);
/* Returns 0 and leaves r at the body, or -HA_E_CORRUPT / -HA_E_VERSION. */
int peer_header_decode(struct ha_reader *r, struct peer_header *ret);
/* True if data begins like one of these messages (and not like the log's). */
bool peer_is_message(const uint8_t *data, size_t size);

void peer_report_encode(struct ha_writer *w, const struct ha_report *m);
int peer_report_decode(struct ha_reader *r, struct ha_report *ret);
void peer_devices_encode(struct ha_writer *w, const struct peer_devices *m);
int peer_devices_decode(struct ha_reader *r, struct peer_devices *ret);
void peer_fence_encode(struct ha_writer *w, const struct peer_fence *m);
int peer_fence_decode(struct ha_reader *r, struct peer_fence *ret);
void peer_move_ready_encode(struct ha_writer *w, const struct peer_move_ready *m);
int peer_move_ready_decode(struct ha_reader *r, struct peer_move_ready *ret);
void peer_progress_encode(struct ha_writer *w, const struct ha_move_progress *m);
int peer_progress_decode(struct ha_reader *r, struct ha_move_progress *ret);
void peer_forecast_encode(struct ha_writer *w, const struct peer_forecast *m);
int peer_forecast_decode(struct ha_reader *r, struct peer_forecast *ret);
void peer_probe_encode(struct ha_writer *w, const struct peer_probe *m);
int peer_probe_decode(struct ha_reader *r, struct peer_probe *ret);
void peer_facts_ask_encode(struct ha_writer *w, const struct peer_facts_ask *m);
int peer_facts_ask_decode(struct ha_reader *r, struct peer_facts_ask *ret);
void peer_facts_tell_encode(struct ha_writer *w, const struct peer_facts_tell *m);
int peer_facts_tell_decode(struct ha_reader *r, struct peer_facts_tell *ret);
void peer_things_encode(struct ha_writer *w, const struct peer_things *m);
int peer_things_decode(struct ha_reader *r, struct peer_things *ret);
void peer_chunk_encode(struct ha_writer *w, const struct peer_chunk *m);
int peer_chunk_decode(struct ha_reader *r, struct peer_chunk *ret);

#endif
