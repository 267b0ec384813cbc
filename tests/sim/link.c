/* SPDX-License-Identifier: Apache-2.0
 *
 * Local SEQPACKET sockets between hamgrd and the services of its node, in place of
 * hamgr/shell/link.c and of the services' ends: packets arrive whole, in order, some microseconds
 * later, and a dead end is heard of by the other.
 */
#include "hamgr/shell/link.h"

#include <stdlib.h>
#include <string.h>

#include "hamgr/ipc/fenceproto.h"
#include "tests/sim/sim.h"

#define LATENCY_NS     (30 * UINT64_C(1000))
#define RETRY_FIRST_MS 100u
#define RETRY_LAST_MS  2000u
#define CONNS_MAX      512u

struct link {
    struct sim_proc *proc;
    const struct link_callbacks *callbacks;
    void *user;
    uint8_t service;
    int fd; /* adopted: of a stream; else -1 */
    struct sim_conn *conn;
    uint32_t retry_ms;
    uint64_t timer;
};

struct parcel {
    struct sim_conn *conn;
    uint32_t number;
    uint16_t type;
    uint64_t id;
    int fd;
    size_t size;
    uint8_t body[];
};

static struct sim_conn conns[CONNS_MAX];
static uint32_t conn_high, conn_number;

void sim_links_reset(void)
{
    memset(conns, 0, sizeof(conns));
    conn_high = conn_number = 0;
}

static enum sim_kind kind_of(uint8_t service)
{
    static const enum sim_kind kinds[] = {[SIM_TO_HV] = SIM_HV,
                                          [SIM_TO_KEEPER] = SIM_KEEPER,
                                          [SIM_TO_FENCER] = SIM_FENCER,
                                          [SIM_TO_STREAM] = SIM_HAMGRD};
    return kinds[service];
}

static struct sim_conn *new_conn(struct sim_node *node, uint8_t service, struct link *client)
{
    for (uint32_t i = 0; i < CONNS_MAX; i++) {
        struct sim_conn *conn = &conns[i];
        if (conn->is_used)
            continue;
        *conn = (struct sim_conn){.is_used = true,
                                  .number = ++conn_number,
                                  .service = service,
                                  .node = node,
                                  .client = client};
        conn_high = i >= conn_high ? i + 1 : conn_high;
        return conn;
    }
    ha_assert(!"too many connections");
    return NULL;
}

/* ---- to the service ----------------------------------------------------------------------------
 */

static void serve(void *data, uint64_t arg)
{
    struct parcel *p = data;
    struct ha_packet packet = {.type = p->type,
                               .id = p->id,
                               .body = p->body,
                               .body_size = p->size,
                               .fds = {p->fd, -1, -1, -1}};

    (void)arg;
    if (p->conn->is_used && p->conn->number == p->number) {
        switch ((enum sim_service)p->conn->service) {
        case SIM_TO_HV:
            sim_gate_packet(p->conn, &packet, p->fd);
            break;
        case SIM_TO_KEEPER:
            sim_keeper_packet(p->conn, &packet);
            break;
        case SIM_TO_FENCER:
            sim_fencer_packet(p->conn, &packet);
            break;
        case SIM_TO_STREAM:
        case SIM_SERVICES:
            break; /* a CANCEL: the close that follows says the same */
        }
    }
    struct sim_proc *before = sim_enter(NULL);
    free(p);
    sim_leave(before);
}

static struct parcel *pack(struct sim_conn *conn, uint16_t type, uint64_t id, const void *body,
                           size_t size, int fd)
{
    struct sim_proc *before = sim_enter(NULL);
    struct parcel *p = malloc(sizeof(*p) + size);

    sim_leave(before);
    ha_assert(p);
    *p = (struct parcel){
        .conn = conn, .number = conn->number, .type = type, .id = id, .fd = fd, .size = size};
    if (size > 0)
        memcpy(p->body, body, size);
    return p;
}

static void note_lease(const struct link *link, const void *body, size_t size)
{
    struct keeper_lease lease;

    if (keeper_lease_decode(body, size, &lease) == 0)
        sim_check_lease_told(link->proc->node, link->conn->number, lease.end_ns);
}

static uint64_t latency_ns(uint8_t service)
{
    return service == SIM_TO_HV ? LATENCY_NS + sim_corner_hv_latency_ns() : LATENCY_NS;
}

int link_send(struct link *link, uint16_t type, uint64_t id, const void *body, size_t body_size,
              const int *fds, unsigned fd_count)
{
    if (!link_is_up(link))
        return -107; /* ENOTCONN */
    if (link->service == SIM_TO_HV)
        sim_check_rejoin_asks(link->proc->node, type, id);
    if (type == KEEPER_LEASE && link->service == SIM_TO_KEEPER)
        note_lease(link, body, body_size);
    struct parcel *p =
        pack(link->conn, type, id, body, body_size, fd_count > 0 && fds ? fds[0] : -1);
    sim_after(latency_ns(link->service), &link->proc->node->procs[kind_of(link->service)], serve, p,
              0);
    return 0;
}

/* ---- to the client -----------------------------------------------------------------------------
 */

static void arrive(void *data, uint64_t arg)
{
    struct parcel *p = data;
    struct ha_packet packet = {.type = p->type,
                               .id = p->id,
                               .body = p->body,
                               .body_size = p->size,
                               .fds = {-1, -1, -1, -1}};

    (void)arg;
    if (p->conn->is_used && p->conn->number == p->number) {
        if (p->conn->service == SIM_TO_HV)
            sim_check_rejoin_hears(p->conn->node, p->type, p->id);
        p->conn->client->callbacks->packet(p->conn->client->user, &packet);
    }
    struct sim_proc *before = sim_enter(NULL);
    free(p);
    sim_leave(before);
}

void sim_conn_reply(struct sim_conn *conn, uint16_t type, uint64_t id, const void *body,
                    size_t size)
{
    if (!conn->is_used)
        return;
    sim_after(latency_ns(conn->service), conn->client->proc, arrive,
              pack(conn, type, id, body, size, -1), 0);
}

/* ---- connecting --------------------------------------------------------------------------------
 */

static void try_connect(void *data, uint64_t arg)
{
    struct link *link = data;

    (void)arg;
    link->timer = 0;
    if (link->conn) {
        if (link->callbacks->up)
            link->callbacks->up(link->user);
        return;
    }
    if (!sim_is_up(link->proc->node, kind_of(link->service))) {
        link->retry_ms = link->retry_ms * 2 > RETRY_LAST_MS ? RETRY_LAST_MS : link->retry_ms * 2;
        link->timer = sim_after(link->retry_ms * NS_MS, link->proc, try_connect, link, 0);
        return;
    }
    link->retry_ms = RETRY_FIRST_MS;
    link->conn = new_conn(link->proc->node, link->service, link);
    if (link->service == SIM_TO_HV)
        sim_gate_joined(link->conn);
    if (link->callbacks->up)
        link->callbacks->up(link->user);
}

static struct link *link_new(qb_loop_t *loop, const struct link_callbacks *callbacks, void *user)
{
    struct link *link = calloc(1, sizeof(*link));

    ha_assert(link);
    link->proc = (struct sim_proc *)loop;
    link->callbacks = callbacks;
    link->user = user;
    link->fd = -1;
    link->retry_ms = RETRY_FIRST_MS;
    return link;
}

struct link *link_open(qb_loop_t *loop, const char *path, const struct link_callbacks *callbacks,
                       void *user)
{
    struct link *link = link_new(loop, callbacks, user);

    link->service = strcmp(path, KEEPER_SOCKET) == 0   ? SIM_TO_KEEPER
                    : strcmp(path, FENCEP_SOCKET) == 0 ? SIM_TO_FENCER
                                                       : SIM_TO_HV;
    link->timer = sim_after(0, link->proc, try_connect, link, 0);
    return link;
}

struct link *link_adopt(qb_loop_t *loop, int fd, const struct link_callbacks *callbacks, void *user)
{
    struct link *link = link_new(loop, callbacks, user);

    link->service = SIM_TO_STREAM;
    link->fd = fd;
    link->conn = new_conn(link->proc->node, SIM_TO_STREAM, link);
    if (!sim_stream_adopt(fd, link->conn))
        link->conn->is_used = false;
    link->timer = sim_after(0, link->proc, try_connect, link, 0);
    return link;
}

bool link_is_up(const struct link *link)
{
    return link && link->conn;
}

static void let_go(struct sim_conn *conn)
{
    if (!conn->is_used)
        return;
    if (conn->service == SIM_TO_HV)
        sim_gate_left(conn);
    else if (conn->service == SIM_TO_STREAM)
        sim_stream_closed(conn);
    conn->is_used = false;
}

void link_close(struct link *link)
{
    if (!link)
        return;
    sim_cancel(link->timer);
    if (link->conn)
        let_go(link->conn);
    free(link);
}

/* ---- ends that die -----------------------------------------------------------------------------
 */

static void hear_of_end(void *data, uint64_t arg)
{
    struct sim_conn *conn = data;

    if (!conn->is_used || conn->number != arg)
        return;
    struct link *link = conn->client;
    conn->is_used = false;
    link->conn = NULL;
    if (link->fd < 0)
        link->timer = sim_after(link->retry_ms * NS_MS, link->proc, try_connect, link, 0);
    link->callbacks->down(link->user, "the peer closed the connection");
}

void sim_conn_end(struct sim_conn *conn)
{
    if (conn->is_used)
        sim_after(latency_ns(conn->service), conn->client->proc, hear_of_end, conn, conn->number);
}

void sim_service_gone(struct sim_node *node, enum sim_service service)
{
    for (uint32_t i = 0; i < conn_high; i++) {
        if (!conns[i].is_used || conns[i].node != node || conns[i].service != service)
            continue;
        conns[i].user = NULL;
        sim_conn_end(&conns[i]);
    }
}

void sim_client_gone(struct sim_node *node)
{
    for (uint32_t i = 0; i < conn_high; i++) {
        if (conns[i].is_used && conns[i].node == node)
            let_go(&conns[i]);
    }
}

void sim_each_conn(struct sim_node *node, enum sim_service service,
                   void (*fn)(struct sim_conn *conn, void *user), void *user)
{
    for (uint32_t i = 0; i < conn_high; i++) {
        if (conns[i].is_used && conns[i].node == node && conns[i].service == service)
            fn(&conns[i], user);
    }
}
