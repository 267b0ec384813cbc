/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: the handshake of a later connection, which is let in by a key of its lane
 * (STREAM.md, section 8). Three kinds of caller: any bytes; one with the right key whose first
 * message was changed on its way; one with a lane's right key under a name of the fuzzer's choice.
 * Only the right key under exactly its lane's name gets in, and the server knows the lane.
 */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/hmac.h>
#include <openssl/ssl.h>

#include "migrate/chan_tls.h"

#define TICKET       UINT64_C(0x0123456789abcdef)
#define LANES        3u
#define HELLO_MAX    2048u
#define RECORD_HEAD  5u /* its version is not protected, and means nothing */
#define NAME_MAX_TRY 64u
#define TURNS        20u

static const uint8_t psk[FRAME_PSK_SIZE] = "a key of 32 bytes, always this";
static struct tls_context *server_context, *client_context;
static SSL_CTX *stranger;
static char claimed[NAME_MAX_TRY + 1]; /* the stranger's name, and the lane whose key it has */
static unsigned claimed_lane;

/* STREAM.md's formula, once more. */
static int claim(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *id_size,
                 SSL_SESSION **session)
{
    static const unsigned char suite[2] = {0x13, 0x01};
    uint8_t text[19 + 8 + 2] = "hamgr-stream lane 1", key[32];
    unsigned size = 0;

    (void)md;
    for (unsigned i = 0; i < 8; i++)
        text[19 + i] = (uint8_t)(TICKET >> (8 * i));
    text[27] = (uint8_t)claimed_lane;
    REQUIRE(HMAC(EVP_sha256(), psk, sizeof(psk), text, sizeof(text), key, &size));
    *session = SSL_SESSION_new();
    REQUIRE(*session && SSL_SESSION_set1_master_key(*session, key, sizeof(key)) == 1);
    REQUIRE(SSL_SESSION_set_cipher(*session, SSL_CIPHER_find(ssl, suite)) == 1);
    REQUIRE(SSL_SESSION_set_protocol_version(*session, TLS1_3_VERSION) == 1);
    *id = (const unsigned char *)claimed;
    *id_size = strlen(claimed);
    return 1;
}

static void set_up(void)
{
    static const unsigned char alpn[] = "\014hamgr-stream";
    struct ha_err err;

    server_context = tls_context_psk_new(&err);
    client_context = tls_context_psk_new(&err);
    stranger = SSL_CTX_new(TLS_client_method());
    REQUIRE(server_context && client_context && stranger);
    tls_context_key(server_context, psk, TICKET, LANES);
    tls_context_key(client_context, psk, TICKET, LANES);
    SSL_CTX_set_min_proto_version(stranger, TLS1_3_VERSION);
    SSL_CTX_set_psk_use_session_callback(stranger, claim);
    REQUIRE(SSL_CTX_set_alpn_protos(stranger, alpn, sizeof(alpn) - 1) == 0);
}

static void make_pair(int fds[2])
{
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
}

static struct chan *serve(int fd)
{
    struct ha_err err;
    struct chan *chan = chan_tls_psk_new(server_context, 0, fd, true, &err);

    REQUIRE(chan);
    return chan;
}

/* The server's verdict over what lies in its socket, when nothing more will come. */
static int judge(struct chan *server, int far_fd)
{
    struct ha_err err = {0};
    int rc;

    (void)shutdown(far_fd, SHUT_WR);
    rc = chan_tls_handshake(server, &err);
    REQUIRE(rc != -EAGAIN); /* at the end of its input it knows */
    REQUIRE(rc == 1 || err.text[0] != '\0');
    return rc;
}

static void try_bytes(struct fuzz_input *in)
{
    int fds[2];

    make_pair(fds);
    struct chan *server = serve(fds[0]);
    if (in->size > 0)
        REQUIRE(write(fds[1], in->data, in->size) == (ssize_t)in->size);
    REQUIRE(judge(server, fds[1]) < 0);
    server->ops->close(server);
    close(fds[1]);
}

/* Client and server in turn, until neither goes on. True when the server is content. */
static bool shake(struct chan *server, int (*client_turn)(void *client), void *client)
{
    struct ha_err err = {0};
    int rc = -EAGAIN;

    for (unsigned i = 0; i < TURNS && rc == -EAGAIN; i++) {
        int client_rc = client_turn(client);
        rc = chan_tls_handshake(server, &err);
        if (client_rc < 0 && rc == -EAGAIN)
            return false;
    }
    return rc == 1;
}

static int turn_ours(void *client)
{
    struct chan *chan = client;
    struct ha_err err;
    int rc = chan_tls_handshake(chan, &err);

    return rc == -EAGAIN || rc == 1 ? 0 : -1;
}

static int turn_stranger(void *client)
{
    int rc = SSL_do_handshake(client);
    int code = SSL_get_error(client, rc);

    return rc == 1 || code == SSL_ERROR_WANT_READ ? 0 : -1;
}

/* Our own client's first message, with one byte changed; unchanged it gets in. */
static void try_changed(struct fuzz_input *in)
{
    uint8_t hello[HELLO_MAX];
    int to_server[2], to_client[2];
    unsigned lane = fuzz_u8(in) % (LANES + 1);
    uint16_t at = fuzz_u16(in);
    uint8_t bits = fuzz_u8(in);
    struct ha_err err;

    make_pair(to_server);
    make_pair(to_client);
    struct chan *server = serve(to_server[0]);
    struct chan *client = chan_tls_psk_new(client_context, lane,
                                           bits == 0 ? to_server[1] : to_client[0], false, &err);
    REQUIRE(client);
    if (bits == 0) {
        close(to_client[0]);
        REQUIRE(shake(server, turn_ours, client) && chan_tls_lane(server) == lane);
    } else {
        (void)turn_ours(client);
        ssize_t size = read(to_client[1], hello, sizeof(hello));
        REQUIRE(size > (ssize_t)RECORD_HEAD);
        hello[RECORD_HEAD + at % (size_t)(size - RECORD_HEAD)] ^= bits;
        REQUIRE(write(to_server[1], hello, (size_t)size) == size);
        REQUIRE(judge(server, to_server[1]) < 0);
        close(to_server[1]);
    }
    client->ops->close(client);
    server->ops->close(server);
    close(to_client[1]);
}

static void try_name(struct fuzz_input *in)
{
    char right[NAME_MAX_TRY];
    size_t size = NAME_MAX_TRY;
    int fds[2];

    claimed_lane = fuzz_u8(in) % (LANES + 3); /* also lanes that were not granted */
    snprintf(right, sizeof(right), "hamgr-stream 1 %016llx %u", (unsigned long long)TICKET,
             claimed_lane);
    const uint8_t *name = fuzz_bytes(in, &size);
    memcpy(claimed, name, size);
    claimed[size] = '\0';
    if (claimed[0] == '\0') /* OpenSSL has no empty names; and the right one must be tried */
        memcpy(claimed, right, sizeof(right));
    make_pair(fds);
    struct chan *server = serve(fds[0]);
    SSL *client = SSL_new(stranger);
    REQUIRE(client && SSL_set_fd(client, fds[1]) == 1);
    SSL_set_connect_state(client);
    bool is_in = shake(server, turn_stranger, client);
    REQUIRE(is_in == (strcmp(claimed, right) == 0 && claimed_lane <= LANES));
    REQUIRE(!is_in || chan_tls_lane(server) == claimed_lane);
    SSL_free(client);
    server->ops->close(server);
    close(fds[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};

    if (!server_context)
        set_up();
    switch (fuzz_u8(&in) % 3) {
    case 0:
        try_bytes(&in);
        break;
    case 1:
        try_changed(&in);
        break;
    default:
        try_name(&in);
        break;
    }
    return 0;
}
