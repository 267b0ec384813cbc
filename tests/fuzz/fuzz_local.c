/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: the local protocols of a node. The first byte picks the protocol, the rest is a body
 * (or, for the last one, a whole packet on a real socket). What decodes must encode to the bytes it
 * was decoded from.
 */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hamgr/hv/embedded/storage.h"
#include "hamgr/ipc/fenceproto.h"
#include "hamgr/ipc/hvproto.h"
#include "hamgr/ipc/keeperproto.h"
#include "hamgr/ipc/sock.h"
#include "hamgr/ipc/streamproto.h"

static uint8_t out[HA_IPC_MAX];

/* One function per message: decodes, and encodes what it got. */
#define AGAIN(name)                                                                                \
    static bool again_##name(const uint8_t *body, size_t size, struct ha_writer *w)                \
    {                                                                                              \
        static struct name m;                                                                      \
        if (name##_decode(body, size, &m) < 0)                                                     \
            return false;                                                                          \
        name##_encode(w, &m);                                                                      \
        return true;                                                                               \
    }
AGAIN(hvp_hello)
AGAIN(hvp_welcome)
AGAIN(hvp_domain)
AGAIN(hvp_create)
AGAIN(hvp_save)
AGAIN(hvp_abort)
AGAIN(hvp_done)
AGAIN(hvp_gate)
AGAIN(hvp_domains)
AGAIN(keeper_arm)
AGAIN(keeper_lease)
AGAIN(keeper_proof)
AGAIN(keeper_status)
AGAIN(fencep_run)
AGAIN(fencep_cancel)
AGAIN(fencep_vouch)
AGAIN(fencep_result)
AGAIN(fencep_devices)
AGAIN(streamp_start)
AGAIN(streamp_lane)
AGAIN(streamp_progress)
AGAIN(streamp_end)
AGAIN(storagep_hello)
AGAIN(storagep_request)
AGAIN(storagep_ack)

static bool again_progress(const uint8_t *body, size_t size, struct ha_writer *w)
{
    struct hv_progress m;

    if (hvp_progress_decode(body, size, &m) < 0)
        return false;
    hvp_progress_encode(w, &m);
    return true;
}

typedef bool (*again_fn)(const uint8_t *body, size_t size, struct ha_writer *w);
static const again_fn protocols[] = {
    again_hvp_hello,        again_hvp_welcome,    again_hvp_domain,     again_hvp_create,
    again_hvp_save,         again_hvp_abort,      again_hvp_done,       again_hvp_gate,
    again_hvp_domains,      again_progress,       again_keeper_arm,     again_keeper_lease,
    again_keeper_proof,     again_keeper_status,  again_fencep_run,     again_fencep_cancel,
    again_fencep_result,    again_fencep_devices, again_streamp_start,  again_streamp_lane,
    again_streamp_progress, again_streamp_end,    again_storagep_hello, again_storagep_request,
    again_storagep_ack,     again_fencep_vouch,
};
#define PROTOCOLS (sizeof(protocols) / sizeof(protocols[0]))

/* The packet as a process of another build, or another program, would send it. */
static void try_socket(const uint8_t *data, size_t size)
{
    static uint8_t buffer[HA_IPC_MAX];
    struct ha_packet packet;
    int ends[2];

    if (size == 0 || size > 60000)
        return;
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    REQUIRE(send(ends[0], data, size, 0) == (ssize_t)size);
    int rc = ha_sock_receive(ends[1], buffer, &packet);
    REQUIRE(rc == 1 || rc == -HA_E_VERSION || rc == -HA_E_PEER);
    if (rc == 1) {
        REQUIRE(packet.body_size < size && packet.body >= buffer);
        REQUIRE(packet.body + packet.body_size <= buffer + sizeof(buffer));
        REQUIRE(packet.body_size == 0 ||
                memcmp(packet.body, data + size - packet.body_size, packet.body_size) == 0);
        REQUIRE(ha_sock_send(ends[1], packet.type, packet.id, packet.body, packet.body_size, NULL,
                             0) == 0);
        REQUIRE(recv(ends[0], buffer, sizeof(buffer), 0) == (ssize_t)size);
        REQUIRE(memcmp(buffer, data, size) == 0);
    }
    close(ends[0]);
    close(ends[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    uint8_t which = fuzz_u8(&in) % (PROTOCOLS + 1);
    struct ha_writer w = ha_writer_of(out, sizeof(out));

    if (which == PROTOCOLS) {
        try_socket(in.data, in.size);
        return 0;
    }
    uint8_t *body = fuzz_copy(in.data, in.size);
    if (protocols[which](body, in.size, &w)) {
        /* A START of an older hamgrd is shorter: what it does not say is written as 0. */
        bool may_grow = protocols[which] == again_streamp_start;
        REQUIRE(!w.failed && (w.position == in.size || (may_grow && w.position > in.size)));
        REQUIRE(memcmp(out, body, in.size) == 0);
    }
    free(body);
    return 0;
}
