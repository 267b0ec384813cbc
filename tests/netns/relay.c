/* SPDX-License-Identifier: Apache-2.0
 *
 * A bad network between the nodes of a room: takes corosync's datagrams off the cables and puts
 * them back late, twice, in another order, damaged or not at all. For kernels without tc netem.
 *
 *     relay RULES SEED PORT...
 *
 * PORT n (from 1) is the switch's end of node n's cable, whose other end has the address
 * 02:00:00:00:00:0n. The room's filters drop these datagrams on the switch, so that the relay's are
 * the only ones; it sees them before the switch does. RULES is a file of RELAY_NODES x RELAY_NODES
 * struct rule (row: sender, column: receiver), mapped, changed by its owner at any time. A cable
 * that is out stays out: nothing comes from that port, and nothing can be sent to it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/base/rng.h"

#define RELAY_NODES  8u
#define COROSYNC_UDP 5405
#define WAITING_MAX  16384u /* datagrams: more than a second of everything corosync can say */
#define PAYLOAD_AT   (sizeof(struct virtio_net_hdr) + 42u) /* Ethernet, IPv4, UDP */
/* A switch's buffer: what does not fit is lost, as on a wire. With seconds of room, what corosync
 * said long ago arrives as news, and those who look for each other never agree. */
#define BUFFER_SIZE (512 << 10)
#define FRAME_MAX   2048u /* with the virtio header in front; corosync keeps to the MTU */

/* Little-endian, as its writer packs it. All zero: as it comes, at once. */
struct rule {
    volatile uint32_t loss_permille;
    volatile uint32_t delay_us;
    volatile uint32_t jitter_us; /* 0..this more for each datagram: those that differ overtake */
    volatile uint32_t twice_permille;
    volatile uint32_t flip_permille; /* one bit of it is another: corosync's encryption must see */
};

struct waiting {
    uint64_t due_ns;
    uint64_t number; /* among those due at the same time the older goes first */
    uint32_t to;
    uint32_t size;
    uint8_t *frame;
};

struct relay {
    const struct rule *rules;
    char **ports;
    uint32_t port_count;
    int ifindex[RELAY_NODES];
    int sock;
    struct ha_rng rng;
    uint64_t next_number;
    uint64_t looked_ns; /* when the ports' indices were looked up */
    uint32_t count;
    struct waiting heap[WAITING_MAX]; /* the first due is heap[0] */
};

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- what waits: a binary heap ---- */

static bool is_before(const struct waiting *a, const struct waiting *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->number < b->number;
}

static void swap(struct waiting *a, struct waiting *b)
{
    struct waiting kept = *a;

    *a = *b;
    *b = kept;
}

static void put(struct relay *r, struct waiting item)
{
    uint32_t at = r->count++;

    r->heap[at] = item;
    for (; at > 0 && is_before(&r->heap[at], &r->heap[(at - 1) / 2]); at = (at - 1) / 2)
        swap(&r->heap[at], &r->heap[(at - 1) / 2]);
}

static struct waiting take(struct relay *r)
{
    struct waiting first = r->heap[0];
    uint32_t at = 0;

    r->heap[0] = r->heap[--r->count];
    for (;;) {
        uint32_t least = at;
        for (uint32_t child = 2 * at + 1; child <= 2 * at + 2 && child < r->count; child++)
            if (is_before(&r->heap[child], &r->heap[least]))
                least = child;
        if (least == at)
            return first;
        swap(&r->heap[at], &r->heap[least]);
        at = least;
    }
}

/* ---- the wire ---- */

/* Ports come and go with their nodes' power, and are others each time. */
static void look_up_ports(struct relay *r)
{
    uint64_t now = now_ns();

    if (r->looked_ns != 0 && now - r->looked_ns < 20000000u)
        return;
    r->looked_ns = now;
    for (uint32_t i = 0; i < r->port_count; i++)
        r->ifindex[i] = (int)if_nametoindex(r->ports[i]);
}

static void send_now(struct relay *r, uint32_t to, const uint8_t *frame, size_t size)
{
    struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_halen = ETH_ALEN};

    for (int tries = 0; tries < 2; tries++) {
        where.sll_ifindex = r->ifindex[to];
        if (where.sll_ifindex != 0 &&
            sendto(r->sock, frame, size, 0, (struct sockaddr *)&where, sizeof(where)) >= 0)
            return;
        look_up_ports(r); /* no power, no cable, or a new port: once more with its new number */
    }
}

static uint64_t delay_of(struct relay *r, const struct rule *rule)
{
    return ((uint64_t)rule->delay_us + ha_rng_below(&r->rng, (uint64_t)rule->jitter_us + 1)) * 1000;
}

static void keep(struct relay *r, uint32_t to, const uint8_t *frame, size_t size, uint64_t wait_ns)
{
    uint8_t *copy = r->count < WAITING_MAX ? malloc(size) : NULL;

    if (!copy)
        return; /* lost: that is what full queues do */
    memcpy(copy, frame, size);
    put(r, (struct waiting){.due_ns = now_ns() + wait_ns,
                            .number = r->next_number++,
                            .to = to,
                            .size = (uint32_t)size,
                            .frame = copy});
}

/* Behind all headers; the checksum of a frame that was on no wire is computed only later. */
static void flip(struct relay *r, uint8_t *frame, size_t size)
{
    if (size > PAYLOAD_AT)
        frame[PAYLOAD_AT + ha_rng_below(&r->rng, size - PAYLOAD_AT)] ^=
            (uint8_t)(1u << ha_rng_below(&r->rng, 8));
}

static void pass(struct relay *r, uint32_t from, uint32_t to, uint8_t *frame, size_t size)
{
    const struct rule *rule = &r->rules[from * RELAY_NODES + to];

    if (ha_rng_below(&r->rng, 1000) < rule->loss_permille)
        return;
    if (ha_rng_below(&r->rng, 1000) < rule->flip_permille)
        flip(r, frame, size);
    uint32_t copies = ha_rng_below(&r->rng, 1000) < rule->twice_permille ? 2 : 1;
    for (; copies > 0; copies--) {
        uint64_t wait_ns = delay_of(r, rule);
        if (wait_ns == 0)
            send_now(r, to, frame, size);
        else
            keep(r, to, frame, size, wait_ns);
    }
}

/* The node a MAC address belongs to, from 0, or RELAY_NODES. */
static uint32_t node_of(const struct relay *r, const uint8_t *mac)
{
    static const uint8_t prefix[5] = {2, 0, 0, 0, 0};

    if (memcmp(mac, prefix, sizeof(prefix)) != 0 || mac[5] < 1 || mac[5] > r->port_count)
        return RELAY_NODES;
    return mac[5] - 1u;
}

static void receive(struct relay *r)
{
    uint8_t frame[FRAME_MAX];
    struct sockaddr_ll where;
    socklen_t where_size = sizeof(where);
    const size_t head = sizeof(struct virtio_net_hdr);

    for (int n = 0; n < 256; n++) {
        ssize_t size = recvfrom(r->sock, frame, sizeof(frame), MSG_DONTWAIT | MSG_TRUNC,
                                (struct sockaddr *)&where, &where_size);
        if (size < 0)
            return;
        if ((size_t)size > sizeof(frame) || (size_t)size < head + sizeof(struct ether_header) ||
            where.sll_pkttype == PACKET_OUTGOING)
            continue;
        uint32_t to = node_of(r, frame + head);
        uint32_t from = node_of(r, frame + head + ETH_ALEN);
        if (to == RELAY_NODES || from == RELAY_NODES)
            continue;
        if (where.sll_ifindex != r->ifindex[from])
            look_up_ports(r);
        if (where.sll_ifindex == r->ifindex[from])
            pass(r, from, to, frame, (size_t)size);
    }
}

/* ---- beginning ---- */

/* IPv4 without options, UDP, to corosync's port. Offsets in an Ethernet frame. */
static struct sock_filter only_corosync[] = {
    BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETHERTYPE_IP, 0, 5),
    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 3),
    BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 36), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, COROSYNC_UDP, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, FRAME_MAX),   BPF_STMT(BPF_RET | BPF_K, 0),
};

static int open_wire(void)
{
    const struct sock_fprog program = {.len = sizeof(only_corosync) / sizeof(only_corosync[0]),
                                       .filter = only_corosync};
    int yes = 1, size = BUFFER_SIZE;
    int sock = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

    if (sock < 0)
        die("packet socket");
    /* Checksums of frames that never were on a wire are not computed yet: the header says so. */
    if (setsockopt(sock, SOL_PACKET, PACKET_VNET_HDR, &yes, sizeof(yes)) != 0 ||
        setsockopt(sock, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) != 0)
        die("packet socket's options");
    setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    setsockopt(sock, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
    struct sockaddr_ll all = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    if (bind(sock, (struct sockaddr *)&all, sizeof(all)) != 0)
        die("bind");
    return sock;
}

static const struct rule *map_rules(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t size = RELAY_NODES * RELAY_NODES * sizeof(struct rule);

    if (fd < 0 || lseek(fd, 0, SEEK_END) < (off_t)size)
        die(path);
    void *rules = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (rules == MAP_FAILED)
        die("map rules");
    close(fd);
    return rules;
}

/* Sends what is due; returns how long poll may wait, in ns. */
static uint64_t flush(struct relay *r)
{
    for (;;) {
        uint64_t now = now_ns();
        if (r->count == 0)
            return 1000000000u;
        if (r->heap[0].due_ns > now)
            return r->heap[0].due_ns - now;
        struct waiting item = take(r);
        send_now(r, item.to, item.frame, item.size);
        free(item.frame);
    }
}

int main(int argc, char **argv)
{
    static struct relay relay;
    /* A wire does not wait for the nodes' programs: corosync itself runs at the highest real-time
     * priority, and several of them, each alone and looking for the others, fill two cores; the
     * datagrams that would end that must get through. Not allowed here: a little slower. */
    const struct sched_param hardware = {.sched_priority = sched_get_priority_max(SCHED_RR)};

    if (argc < 4 || (uint32_t)argc - 3 > RELAY_NODES) {
        fprintf(stderr, "usage: relay RULES SEED PORT...   (at most %u ports)\n", RELAY_NODES);
        return 2;
    }
    relay.rules = map_rules(argv[1]);
    relay.rng.state = strtoull(argv[2], NULL, 10);
    relay.ports = argv + 3;
    relay.port_count = (uint32_t)argc - 3;
    relay.sock = open_wire();
    sched_setscheduler(0, SCHED_RR, &hardware);
    for (;;) {
        uint64_t wait_ns = flush(&relay);
        struct pollfd p = {.fd = relay.sock, .events = POLLIN};
        const struct timespec wait = {.tv_sec = (time_t)(wait_ns / 1000000000u),
                                      .tv_nsec = (long)(wait_ns % 1000000000u)};
        if (ppoll(&p, 1, &wait, NULL) > 0)
            receive(&relay);
    }
}
