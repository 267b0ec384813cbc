/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-watchdog, the keeper: the only process of a node that pets its watchdog. Small on purpose:
 * one poll loop, memory locked, real-time; the rule is fence/keeper.h. It publishes the lease end
 * in a page that hamgr-hv's gate reads. A restarted keeper takes up from that page what it was
 * armed with: the device's timer did not stop meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>

#include "fence/keeper.h"
#include "fence/watchdog.h"
#include "hamgr/base/slept.h"
#include "hamgr/config/config.h"
#include "hamgr/ipc/keeperproto.h"

#define CLIENTS_MAX 8
#define PAGE_BYTES  4096

struct daemon {
    struct ha_config config;
    struct keeper keeper;
    struct watchdog *watchdog; /* NULL while not armed */
    uint32_t watchdog_ms;      /* W read back */
    uint32_t lease_ms;
    struct keeper_page *page;
    int listener;
    int clients[CLIENTS_MAX];
    uid_t peer_uid;
    char text[HA_TEXT_MAX];
    bool is_lost;    /* armed by the rule, but its device can't be had: nobody may count on it */
    bool is_hurried; /* the device has less than watchdog_ms, see keeper_hurry_ms */
    uint8_t told_state;
    bool told_lost;
    uint8_t buffer[HA_IPC_MAX];
};

static volatile sig_atomic_t is_ending;

static uint64_t read_clock(clockid_t id)
{
    struct timespec now;

    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t now_ns(void)
{
    return read_clock(CLOCK_MONOTONIC_RAW);
}

static void say(const char *level, const char *text)
{
    fprintf(stderr, "hamgr-watchdog: %s%s\n", level, text);
}

/* ---- the page ----------------------------------------------------------------------------------
 */

static int open_page(struct daemon *d, struct ha_err *err)
{
    int fd = open(KEEPER_PAGE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0444);

    if (fd < 0)
        return ha_err_set(err, errno, "%s: %s", KEEPER_PAGE, strerror(errno));
    if (ftruncate(fd, PAGE_BYTES) == 0)
        d->page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (!d->page || d->page == MAP_FAILED)
        return ha_err_set(err, errno, "map %s: %s", KEEPER_PAGE, strerror(errno));
    d->page->version = 1;
    return 0;
}

static void publish(struct daemon *d)
{
    struct keeper_page *page = d->page;
    uint32_t sequence = atomic_load(&page->sequence) | 1u;

    atomic_store(&page->sequence, sequence);
    atomic_store(&page->lease_end_ns, d->keeper.lease_end_ns);
    atomic_store(&page->is_quarantined, d->keeper.state == KEEPER_QUARANTINED);
    atomic_store(&page->is_armed, d->keeper.state != KEEPER_DISARMED);
    atomic_store(&page->lease_ms, d->lease_ms);
    atomic_store(&page->watchdog_ms, d->watchdog_ms);
    atomic_store(&page->has_slept, d->keeper.has_slept);
    atomic_store(&page->slept_ns, d->keeper.slept_ns);
    atomic_store(&page->woke_ns, d->keeper.woke_ns);
    atomic_store(&page->waited_end_ns, d->keeper.waited_end_ns);
    atomic_store(&page->sequence, sequence + 1);
}

/* ---- clients -----------------------------------------------------------------------------------
 */

static void send_status(struct daemon *d, int fd, uint64_t id)
{
    uint8_t body[512];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct keeper_status status = {.is_armed = d->keeper.state != KEEPER_DISARMED && !d->is_lost,
                                   .watchdog_ms = d->watchdog_ms,
                                   .is_quarantined = d->keeper.state == KEEPER_QUARANTINED,
                                   .lease_end_ns = d->keeper.lease_end_ns};

    snprintf(status.text, sizeof(status.text), "%s", d->text);
    keeper_status_encode(&w, &status);
    (void)ha_sock_send(fd, KEEPER_STATUS, id, body, w.position, NULL, 0);
}

/* After every event: the page first, for the gate; then whoever listens, when the state changed. */
static void tell(struct daemon *d)
{
    publish(d);
    if (d->told_state == d->keeper.state && d->told_lost == d->is_lost)
        return;
    char text[HA_TEXT_MAX];
    snprintf(text, sizeof(text), "%s -> %s%s", keeper_state_name(d->told_state),
             keeper_state_name(d->keeper.state), d->is_lost ? ", without its watchdog" : "");
    say("", text);
    d->told_state = d->keeper.state;
    d->told_lost = d->is_lost;
    for (int i = 0; i < CLIENTS_MAX; i++) {
        if (d->clients[i] >= 0)
            send_status(d, d->clients[i], 0);
    }
}

static void note_failure(struct daemon *d, const struct ha_err *err)
{
    bool is_new = !d->is_lost || strcmp(d->text, err->text) != 0;

    snprintf(d->text, sizeof(d->text), "%s", err->text);
    if (is_new)
        say("not armed: ", d->text);
}

/* False: text says why, and the watchdog is not ours. Opening and arming pet it. */
static bool arm_device(struct daemon *d, uint32_t wanted_ms)
{
    struct ha_err err = {0};

    if (!d->watchdog &&
        watchdog_open(d->config.watchdog_device, d->config.allow_softdog, &d->watchdog, &err) < 0) {
        note_failure(d, &err);
        return false;
    }
    if (d->watchdog->ops->arm(d->watchdog, wanted_ms, &d->watchdog_ms, &err) < 0) {
        /* What state the timer is in is unknown: not petting it is the safe side. */
        note_failure(d, &err);
        d->watchdog->ops->abandon(d->watchdog);
        d->watchdog = NULL;
        return false;
    }
    d->is_lost = d->is_hurried = false;
    snprintf(d->text, sizeof(d->text), "%s", d->config.watchdog_device);
    return true;
}

/* A device that is not ours yet is left alone: to open it is a pet. */
static void hurry(struct daemon *d, uint64_t now)
{
    uint32_t hurry_ms = keeper_hurry_ms(&d->keeper, d->watchdog_ms, now), got_ms;
    struct ha_err err = {0};

    if (hurry_ms == 0 || !d->watchdog)
        return;
    say("", "others do not wait for W any more: the watchdog gets less");
    if (d->watchdog->ops->arm(d->watchdog, hurry_ms, &got_ms, &err) < 0)
        say("warning: ", err.text);
    d->is_hurried = true; /* what it has now is unknown if that failed */
}

/* The time, and what a suspend does to it; before each question to the keeper's rule. */
static uint64_t look(struct daemon *d)
{
    int64_t slept = slept_ns(read_clock);
    uint64_t now = now_ns();

    if (keeper_slept(&d->keeper, slept, now)) {
        say("", "the host was suspended: leases from before are void");
        hurry(d, now);
    }
    return now;
}

/* Armed again, only L may grow: the device is left alone, for arming it would be a pet. */
static void arm(struct daemon *d, uint32_t lease_ms, uint32_t wanted_ms)
{
    bool is_armed = d->keeper.state != KEEPER_DISARMED;

    if (!is_armed && !arm_device(d, wanted_ms))
        return;
    if (!is_armed || lease_ms > d->lease_ms)
        d->lease_ms = lease_ms;
    keeper_arm(&d->keeper, lease_ms, look(d));
}

static void disarm(struct daemon *d)
{
    struct ha_err err = {0};

    if (d->keeper.state != KEEPER_DISARMED && !d->watchdog && !arm_device(d, d->watchdog_ms))
        return; /* not taken up yet, and its timer runs: it has to be ours to be stopped */
    if (d->watchdog && d->watchdog->ops->disarm(d->watchdog, &err) < 0) {
        snprintf(d->text, sizeof(d->text), "%s", err.text);
        say("can't disarm: ", d->text);
        return;
    }
    d->watchdog = NULL;
    d->watchdog_ms = 0;
    d->is_lost = false;
    snprintf(d->text, sizeof(d->text), "disarmed on request");
    keeper_disarm(&d->keeper);
}

static void on_packet(struct daemon *d, int fd, const struct ha_packet *packet)
{
    struct keeper_arm order;
    struct keeper_lease lease;
    struct keeper_proof proof;
    uint64_t now = look(d);

    if (packet->type == KEEPER_ARM &&
        keeper_arm_decode(packet->body, packet->body_size, &order) == 0)
        arm(d, order.lease_ms, order.watchdog_ms);
    else if (packet->type == KEEPER_DISARM)
        disarm(d);
    else if (packet->type == KEEPER_LEASE &&
             keeper_lease_decode(packet->body, packet->body_size, &lease) == 0) {
        if (!keeper_lease(&d->keeper, lease.nonce, lease.end_ns, now))
            say("refused: ", "a lease end later than now + L, or of before a suspend");
    } else if (packet->type == KEEPER_PROOF &&
               keeper_proof_decode(packet->body, packet->body_size, &proof) == 0)
        (void)keeper_proof(&d->keeper, proof.taken_ns, now);
    tell(d);
    if (packet->type == KEEPER_ARM || packet->type == KEEPER_DISARM || packet->type == KEEPER_QUERY)
        send_status(d, fd, packet->id);
}

static void drain(struct daemon *d, int slot)
{
    struct ha_packet packet;

    for (int i = 0; i < 32; i++) {
        int rc = ha_sock_receive(d->clients[slot], d->buffer, &packet);
        if (rc == -EAGAIN)
            return;
        if (rc <= 0) {
            close(d->clients[slot]);
            d->clients[slot] = -1;
            return;
        }
        for (int f = 0; f < HA_SOCK_FDS_MAX; f++) {
            if (packet.fds[f] >= 0)
                close(packet.fds[f]);
        }
        on_packet(d, d->clients[slot], &packet);
    }
}

static void accept_client(struct daemon *d)
{
    struct ha_err err = {0};
    int fd = ha_sock_accept(d->listener, d->peer_uid, &err);

    if (fd < 0)
        return;
    for (int i = 0; i < CLIENTS_MAX; i++) {
        if (d->clients[i] < 0) {
            d->clients[i] = fd;
            return;
        }
    }
    close(fd); /* more than a node's own daemons: somebody leaks connections */
}

/* ---- life --------------------------------------------------------------------------------------
 */

static void pet(struct daemon *d)
{
    /* The lease is checked right before the pet: a late wake-up must not extend it. */
    if (keeper_may_pet(&d->keeper, look(d))) {
        if (d->watchdog && !d->is_hurried)
            d->watchdog->ops->pet(d->watchdog);
        else
            d->is_lost = !arm_device(d, d->watchdog_ms); /* see take_up and hurry */
    }
    tell(d);
}

static void run(struct daemon *d)
{
    uint64_t poll_ns = (uint64_t)d->config.keeper_ms * 1000000u;
    uint64_t next_ns = now_ns();

    while (!is_ending) {
        struct pollfd fds[CLIENTS_MAX + 1];
        uint64_t now = now_ns();
        int timeout_ms = next_ns > now ? (int)((next_ns - now + 999999) / 1000000) : 0;
        for (int i = 0; i < CLIENTS_MAX; i++)
            fds[i] = (struct pollfd){.fd = d->clients[i], .events = POLLIN};
        fds[CLIENTS_MAX] = (struct pollfd){.fd = d->listener, .events = POLLIN};
        if (poll(fds, CLIENTS_MAX + 1, timeout_ms) > 0) {
            for (int i = 0; i < CLIENTS_MAX; i++) {
                if (fds[i].fd >= 0 && fds[i].revents)
                    drain(d, i);
            }
            if (fds[CLIENTS_MAX].revents)
                accept_client(d);
        }
        if (now_ns() >= next_ns) {
            pet(d);
            next_ns = now_ns() + poll_ns;
        }
    }
}

/* The device is not touched before a lease or a proof allows a pet, for to open it is one: a keeper
 * that dies again and again must not keep a host alive whose guests others wait for. */
static void take_up(struct daemon *d)
{
    d->keeper.has_slept = atomic_load(&d->page->has_slept) != 0;
    d->keeper.slept_ns = atomic_load(&d->page->slept_ns);
    d->keeper.woke_ns = atomic_load(&d->page->woke_ns);
    d->keeper.waited_end_ns = atomic_load(&d->page->waited_end_ns);
    if (!atomic_load(&d->page->is_armed))
        return;
    say("", "taking up the watchdog of the keeper before this one");
    d->keeper.lease_end_ns = atomic_load(&d->page->lease_end_ns);
    d->lease_ms = atomic_load(&d->page->lease_ms);
    d->watchdog_ms = atomic_load(&d->page->watchdog_ms);
    keeper_arm(&d->keeper, d->lease_ms, look(d));
    pet(d);
}

static void harden(const struct ha_config *config)
{
    struct sched_param priority = {.sched_priority = 10};

    (void)config;
    if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
        say("warning: ", "memory can't be locked");
    if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &priority) < 0)
        say("warning: ", "no real-time priority");
}

static int start(struct daemon *d, const char *config_path, const char *user, struct ha_err *err)
{
    const struct passwd *peer = getpwnam(user);

    d->peer_uid = peer ? peer->pw_uid : (uid_t)-1;
    for (int i = 0; i < CLIENTS_MAX; i++)
        d->clients[i] = -1;
    int rc = ha_config_load(config_path, &d->config, err);
    if (rc < 0)
        return rc;
    keeper_init(&d->keeper, d->config.keeper_ms);
    if (mkdir(HA_SOCK_DIR, 0755) < 0 && errno != EEXIST)
        return ha_err_set(err, errno, "mkdir %s: %s", HA_SOCK_DIR, strerror(errno));
    rc = open_page(d, err);
    if (rc < 0)
        return rc;
    d->listener = ha_sock_listen(KEEPER_SOCKET, peer ? peer->pw_gid : (gid_t)-1, err);
    if (d->listener < 0)
        return d->listener;
    harden(&d->config);
    take_up(d);
    tell(d);
    return 0;
}

static void on_signal(int number)
{
    (void)number;
    is_ending = 1;
}

int main(int argc, char **argv)
{
    static const struct option table[] = {{"config", required_argument, NULL, 'c'},
                                          {"peer-user", required_argument, NULL, 'u'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    static struct daemon daemon;
    struct ha_err err = {0};
    const char *config_path = HA_CONFIG_PATH, *user = "hamgr";
    int option;

    while ((option = getopt_long(argc, argv, "c:u:h", table, NULL)) != -1) {
        if (option == 'c')
            config_path = optarg;
        else if (option == 'u')
            user = optarg;
        else {
            fputs("Usage: hamgr-watchdog [--config FILE] [--peer-user NAME]\n"
                  "The keeper of this node's watchdog. See hamgrd(8).\n",
                  option == 'h' ? stdout : stderr);
            return option == 'h' ? 0 : 2;
        }
    }
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (start(&daemon, config_path, user, &err) < 0) {
        say("can't start: ", err.text);
        return 1;
    }
    sd_notify(0, "READY=1");
    run(&daemon);
    /* No magic close: the timer goes on, as it must when a keeper ends while others count on it. */
    if (daemon.watchdog)
        daemon.watchdog->ops->abandon(daemon.watchdog);
    return 0;
}
