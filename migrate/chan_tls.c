/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/chan_tls.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

/* Four records and a bit at a time. OpenSSL moves what is left behind a record to the buffer's
 * front before it takes the next one: with 256 KiB that cost a fifth of the receiver's time. */
#define READ_BUFFER  69632
#define GATHER       133120 /* eight full records and what is around them: a half of a parcel */
#define DEPTH_MAX    3
#define UPDATES_MAX  32u /* of a key, one after another without data: one in 32 GiB is usual */
#define ALPN         "\x0chamgr-stream" /* wire form: length byte first */
#define ALPN_SIZE    13u
#define EXPORT_LABEL "EXPORTER-hamgr-stream"
#define LANE_LABEL   "hamgr-stream lane 1"
#define NAME_MAX_PSK 64u

struct tls_context {
    SSL_CTX *ctx;
    char peer_name[HA_NAME_MAX];
    int context_index; /* where a handshake finds its chan_tls */
    bool is_psk;
    uint8_t psk[FRAME_PSK_SIZE];
    uint64_t ticket;
    unsigned lanes;
};

struct chan_tls {
    struct chan chan;
    SSL *ssl;
    const struct tls_context *context;
    char verdict[HA_TEXT_MAX]; /* why the peer was refused */
    unsigned lane;
    unsigned updates;        /* of the peer's key since its last data */
    char name[NAME_MAX_PSK]; /* PSK identity */
    BIO *gathered;           /* the SSL's: before its socket; NULL: nothing is kept back */
};

/* AES-GCM needs the CPU's help to be fast; without it ChaCha20 is several times faster. */
#if defined(__x86_64__)
static bool has_fast_aes(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;

    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_AES) != 0 && (c & bit_PCLMUL) != 0;
}
#elif defined(__aarch64__)
static bool has_fast_aes(void)
{
    return (getauxval(AT_HWCAP) & (1UL << 3)) != 0; /* HWCAP_AES */
}
#else
static bool has_fast_aes(void)
{
    return false;
}
#endif

/* The first queued OpenSSL error in words; the queue is empty afterwards. */
static const char *queued_reason(void)
{
    unsigned long code = ERR_get_error();
    const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;

    ERR_clear_error();
    return reason ? reason : "no reason given";
}

static bool is_queued(int reason)
{
    unsigned long code = ERR_peek_error();

    return ERR_GET_LIB(code) == ERR_LIB_SSL && ERR_GET_REASON(code) == reason;
}

static void judge_leaf(struct chan_tls *tls, X509_STORE_CTX *store)
{
    X509 *cert = X509_STORE_CTX_get_current_cert(store);
    char name[HA_NAME_MAX];

    if (!pem_has_name(cert, tls->context->peer_name)) {
        pem_first_name(cert, name);
        snprintf(tls->verdict, sizeof(tls->verdict), "its certificate is for \"%s\", not \"%s\"",
                 name, tls->context->peer_name);
        X509_STORE_CTX_set_error(store, X509_V_ERR_HOSTNAME_MISMATCH);
    } else if (!pem_has_usages(cert)) {
        snprintf(tls->verdict, sizeof(tls->verdict),
                 "its certificate lacks serverAuth or clientAuth");
        X509_STORE_CTX_set_error(store, X509_V_ERR_INVALID_PURPOSE);
    }
}

/* Called per certificate of the chain, root first. OpenSSL has judged signature, time and purpose;
 * the node name and the presence of the usages are ours. */
static int verify(int is_fine, X509_STORE_CTX *store)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    SSL_CTX *ctx = SSL_get_SSL_CTX(ssl);
    const struct tls_context *context = SSL_CTX_get_ex_data(ctx, 0);
    struct chan_tls *tls = SSL_get_ex_data(ssl, context->context_index);

    if (!is_fine && tls->verdict[0] == '\0')
        snprintf(tls->verdict, sizeof(tls->verdict), "its certificate: %s",
                 X509_verify_cert_error_string(X509_STORE_CTX_get_error(store)));
    if (is_fine && X509_STORE_CTX_get_error_depth(store) == 0)
        judge_leaf(tls, store);
    return tls->verdict[0] == '\0';
}

static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_size,
                       const unsigned char *in, unsigned in_size, void *user)
{
    (void)ssl;
    (void)user;
    for (unsigned i = 0; i + 1 <= in_size; i += 1u + in[i])
        if (in_size - i >= ALPN_SIZE && memcmp(in + i, ALPN, ALPN_SIZE) == 0) {
            *out = in + i + 1;
            *out_size = ALPN_SIZE - 1;
            return SSL_TLSEXT_ERR_OK;
        }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static struct chan_tls *tls_of(SSL *ssl)
{
    const struct tls_context *context = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), 0);

    return SSL_get_ex_data(ssl, context->context_index);
}

/* Key updates are handled inside of SSL_read, which comes back for data only: a peer that sends
 * nothing else would keep it there. Both ways, for TCP goes on to receive what is only not read. */
static void watch_messages(int is_written, int version, int type, const void *data, size_t size,
                           SSL *ssl, void *user)
{
    (void)version;
    (void)user;
    if (is_written || type != SSL3_RT_HANDSHAKE || size == 0 ||
        *(const uint8_t *)data != SSL3_MT_KEY_UPDATE)
        return;
    struct chan_tls *tls = tls_of(ssl);
    if (++tls->updates > UPDATES_MAX)
        (void)shutdown(tls->chan.fd, SHUT_RDWR);
}

/* What both kinds of context have in common. suites: in order of preference. */
static bool configure(SSL_CTX *ctx, const char *suites)
{
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA |
                                 SSL_OP_ENABLE_KTLS);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_default_read_buffer_len(ctx, READ_BUFFER);
    SSL_CTX_set_alpn_select_cb(ctx, choose_alpn, NULL);
    SSL_CTX_set_msg_callback(ctx, watch_messages);
    return SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1 &&
           SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) == 1 &&
           SSL_CTX_set_num_tickets(ctx, 0) == 1 && SSL_CTX_set_max_early_data(ctx, 0) == 1 &&
           SSL_CTX_set_ciphersuites(ctx, suites) == 1 &&
           SSL_CTX_set1_groups_list(ctx, "X25519:P-256") == 1 &&
           SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)ALPN, ALPN_SIZE) == 0;
}

static bool trust(SSL_CTX *ctx, const struct identity *identity)
{
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, verify);
    SSL_CTX_set_verify_depth(ctx, DEPTH_MAX);
    SSL_CTX_set1_cert_store(ctx, identity->store);
    return configure(ctx, has_fast_aes() ? "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
                                           "TLS_CHACHA20_POLY1305_SHA256"
                                         : "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:"
                                           "TLS_AES_256_GCM_SHA384");
}

struct tls_context *tls_context_new(const struct identity *identity, const char *peer_name,
                                    struct ha_err *err)
{
    struct tls_context *context = calloc(1, sizeof(*context));
    uint8_t seed[32];

    if (!context) {
        ha_err_set(err, HA_E_NO_MEMORY, "no memory");
        return NULL;
    }
    snprintf(context->peer_name, sizeof(context->peer_name), "%s", peer_name);
    context->ctx = SSL_CTX_new(TLS_method());
    context->context_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    if (!context->ctx || !trust(context->ctx, identity) || context->context_index < 0 ||
        SSL_CTX_set_ex_data(context->ctx, 0, context) != 1 ||
        RAND_bytes(seed, sizeof(seed)) != 1) { /* seeds the generator while files can be opened */
        ha_err_set(err, HA_E_VERSION, "OpenSSL: %s", queued_reason());
        tls_context_free(context);
        return NULL;
    }
    return context;
}

void tls_context_free(struct tls_context *context)
{
    if (!context)
        return;
    SSL_CTX_free(context->ctx);
    OPENSSL_cleanse(context->psk, sizeof(context->psk));
    free(context);
}

/* ---- lanes: a key instead of certificates ---- */

static void name_lane(const struct tls_context *context, unsigned lane, char name[NAME_MAX_PSK])
{
    snprintf(name, NAME_MAX_PSK, "hamgr-stream 1 %016" PRIx64 " %u", context->ticket, lane);
}

/* The key of one lane as the session OpenSSL wants. NULL: no memory. */
static SSL_SESSION *lane_session(SSL *ssl, const struct tls_context *context, unsigned lane)
{
    static const unsigned char suite[2] = {0x13, 0x01}; /* names the hash: SHA-256 */
    uint8_t text[sizeof(LANE_LABEL) + 10], key[32];
    struct ha_writer w = ha_writer_of(text, sizeof(text));
    SSL_SESSION *session = SSL_SESSION_new();
    unsigned size = 0;

    ha_put_raw(&w, LANE_LABEL, strlen(LANE_LABEL));
    ha_put_u64(&w, context->ticket);
    ha_put_u16(&w, (uint16_t)lane);
    bool is_fine =
        session &&
        HMAC(EVP_sha256(), context->psk, sizeof(context->psk), text, w.position, key, &size) &&
        SSL_SESSION_set1_master_key(session, key, sizeof(key)) == 1 &&
        SSL_SESSION_set_cipher(session, SSL_CIPHER_find(ssl, suite)) == 1 &&
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) == 1;
    OPENSSL_cleanse(key, sizeof(key));
    if (is_fine)
        return session;
    SSL_SESSION_free(session);
    return NULL;
}

static int offer_key(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *id_size,
                     SSL_SESSION **session)
{
    struct chan_tls *tls = tls_of(ssl);

    *id = NULL;
    *id_size = 0;
    *session = NULL;
    if (md && EVP_MD_get_type(md) != NID_sha256)
        return 1; /* without a key the handshake finds no certificate either, and ends */
    *session = lane_session(ssl, tls->context, tls->lane);
    *id = (const unsigned char *)tls->name;
    *id_size = strlen(tls->name);
    return *session != NULL;
}

static int find_key(SSL *ssl, const unsigned char *id, size_t id_size, SSL_SESSION **session)
{
    struct chan_tls *tls = tls_of(ssl);
    char name[NAME_MAX_PSK];

    *session = NULL;
    for (unsigned lane = 0; lane <= tls->context->lanes; lane++) {
        name_lane(tls->context, lane, name);
        if (strlen(name) != id_size || memcmp(name, id, id_size) != 0)
            continue;
        tls->lane = lane;
        *session = lane_session(ssl, tls->context, lane);
        return *session != NULL;
    }
    return 1; /* a stranger: there is no certificate to go on with */
}

struct tls_context *tls_context_psk_new(struct ha_err *err)
{
    struct tls_context *context = calloc(1, sizeof(*context));

    if (!context) {
        ha_err_set(err, HA_E_NO_MEMORY, "no memory");
        return NULL;
    }
    context->is_psk = true;
    context->ctx = SSL_CTX_new(TLS_method());
    context->context_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    /* Only suites with the key's hash: another one would leave the key aside. */
    const char *suites = has_fast_aes() ? "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
                                        : "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";
    if (!context->ctx || !configure(context->ctx, suites) || context->context_index < 0 ||
        SSL_CTX_set_ex_data(context->ctx, 0, context) != 1) {
        ha_err_set(err, HA_E_VERSION, "OpenSSL: %s", queued_reason());
        tls_context_free(context);
        return NULL;
    }
    /* Trusts nobody's certificate: a peer that leaves the key aside gets nowhere. */
    SSL_CTX_set_verify(context->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_psk_use_session_callback(context->ctx, offer_key);
    SSL_CTX_set_psk_find_session_callback(context->ctx, find_key);
    return context;
}

void tls_context_key(struct tls_context *context, const uint8_t psk[FRAME_PSK_SIZE],
                     uint64_t ticket, unsigned lanes)
{
    memcpy(context->psk, psk, sizeof(context->psk));
    context->ticket = ticket;
    context->lanes = lanes;
}

static int read_failed(struct chan_tls *tls, int code, struct ha_err *err)
{
    if (code == SSL_ERROR_SYSCALL && errno != 0 && ERR_peek_error() == 0)
        return ha_err_set(err, errno, "connection: %s", strerror(errno));
    if (is_queued(SSL_R_UNEXPECTED_EOF_WHILE_READING) || ERR_peek_error() == 0) {
        ERR_clear_error();
        return ha_err_set(err, ECONNRESET, "connection lost");
    }
    if (ERR_GET_REASON(ERR_peek_error()) > SSL_AD_REASON_OFFSET)
        return ha_err_set(err, HA_E_AUTH, "the peer refused our certificate or broke off: %s",
                          queued_reason());
    (void)tls;
    return ha_err_set(err, HA_E_PEER, "TLS: %s", queued_reason());
}

static ssize_t tls_read(struct chan *chan, void *data, size_t size, struct ha_err *err)
{
    struct chan_tls *tls = (struct chan_tls *)chan;

    errno = 0;
    int r = SSL_read(tls->ssl, data, size > INT32_MAX ? INT32_MAX : (int)size);
    if (r > 0) {
        tls->updates = 0;
        return r;
    }
    int code = SSL_get_error(tls->ssl, r);
    if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE) {
        chan->read_wants = code == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
        return -EAGAIN;
    }
    if (code == SSL_ERROR_ZERO_RETURN)
        return 0;
    return read_failed(tls, code, err);
}

static ssize_t tls_write(struct chan *chan, const void *data, size_t size, struct ha_err *err)
{
    struct chan_tls *tls = (struct chan_tls *)chan;

    errno = 0;
    int r = SSL_write(tls->ssl, data, size > INT32_MAX ? INT32_MAX : (int)size);
    if (r > 0)
        return r;
    int code = SSL_get_error(tls->ssl, r);
    if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE) {
        chan->write_wants = code == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
        return -EAGAIN;
    }
    return read_failed(tls, code, err);
}

/* Not where the kernel makes the records: there are no small pieces, and its messages must not be
 * overtaken. No memory: nothing is gathered. */
static void tls_gather(struct chan *chan)
{
    struct chan_tls *tls = (struct chan_tls *)chan;
    BIO *socket = SSL_get_wbio(tls->ssl);
    BIO *buffer = BIO_get_ktls_send(socket) ? NULL : BIO_new(BIO_f_buffer());

    if (!buffer || BIO_set_write_buffer_size(buffer, GATHER) != 1 || BIO_up_ref(socket) != 1) {
        BIO_free(buffer);
        ERR_clear_error();
        return;
    }
    SSL_set0_wbio(tls->ssl, BIO_push(buffer, socket));
    tls->gathered = buffer;
}

static int tls_flush(struct chan *chan, struct ha_err *err)
{
    struct chan_tls *tls = (struct chan_tls *)chan;

    errno = 0;
    if (!tls->gathered || BIO_flush(tls->gathered) > 0)
        return 0;
    if (BIO_should_retry(tls->gathered)) {
        chan->write_wants = POLLOUT;
        return -EAGAIN;
    }
    return read_failed(tls, SSL_ERROR_SYSCALL, err);
}

static void tls_finish(struct chan *chan)
{
    struct chan_tls *tls = (struct chan_tls *)chan;

    if (SSL_is_init_finished(tls->ssl))
        (void)SSL_shutdown(tls->ssl);
    if (tls->gathered)
        (void)BIO_flush(tls->gathered);
    ERR_clear_error();
    (void)shutdown(chan->fd, SHUT_WR);
}

static int tls_bind(struct chan *chan, uint8_t *ret_binding)
{
    struct chan_tls *tls = (struct chan_tls *)chan;

    if (SSL_export_keying_material(tls->ssl, ret_binding, CHAN_BINDING_SIZE, EXPORT_LABEL,
                                   strlen(EXPORT_LABEL), NULL, 0, 0) == 1)
        return 0;
    ERR_clear_error();
    return -HA_E_PEER;
}

static int tls_renew(struct chan *chan, struct ha_err *err)
{
    struct chan_tls *tls = (struct chan_tls *)chan;

    /* OpenSSL can't change the kernel's key: the lane takes a new connection instead. */
    if (BIO_get_ktls_send(SSL_get_wbio(tls->ssl)))
        return ha_err_set(err, ECONNRESET, "time for a new key");
    /* The message itself goes out with the next write. */
    if (SSL_key_update(tls->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1)
        return 0;
    return ha_err_set(err, HA_E_PEER, "TLS key update: %s", queued_reason());
}

static void tls_close(struct chan *chan)
{
    struct chan_tls *tls = (struct chan_tls *)chan;

    SSL_free(tls->ssl);
    if (chan->fd >= 0)
        close(chan->fd);
    free(tls);
    ERR_clear_error();
}

static const struct chan_ops tls_ops = {
    .name = "tls",
    .read = tls_read,
    .write = tls_write,
    .gather = tls_gather,
    .flush = tls_flush,
    .finish = tls_finish,
    .bind = tls_bind,
    .renew = tls_renew,
    .close = tls_close,
};

static bool prepare(struct chan_tls *tls, int fd, bool is_server)
{
    tls->ssl = SSL_new(tls->context->ctx);
    if (!tls->ssl || SSL_set_ex_data(tls->ssl, tls->context->context_index, tls) != 1 ||
        SSL_set_fd(tls->ssl, fd) != 1)
        return false;
    /* A server that verifies wants its sessions named; a client must not name any. */
    if (is_server &&
        SSL_set_session_id_context(tls->ssl, (const unsigned char *)ALPN, ALPN_SIZE) != 1)
        return false;
    if (is_server)
        SSL_set_accept_state(tls->ssl);
    else
        SSL_set_connect_state(tls->ssl);
    return true;
}

static bool show_certificate(struct chan_tls *tls, const struct identity *identity)
{
    if (SSL_use_certificate(tls->ssl, identity->cert) != 1 ||
        SSL_use_PrivateKey(tls->ssl, identity->key) != 1)
        return false;
    for (int i = 0; i < sk_X509_num(identity->chain); i++)
        if (SSL_add1_chain_cert(tls->ssl, sk_X509_value(identity->chain, i)) != 1)
            return false;
    return true;
}

static struct chan_tls *tls_new(struct tls_context *context, int fd, bool is_server,
                                struct ha_err *err)
{
    struct chan_tls *tls = calloc(1, sizeof(*tls));

    if (!tls) {
        close(fd);
        ha_err_set(err, HA_E_NO_MEMORY, "no memory");
        return NULL;
    }
    tls->chan =
        (struct chan){.ops = &tls_ops, .fd = fd, .read_wants = POLLIN, .write_wants = POLLOUT};
    tls->context = context;
    if (prepare(tls, fd, is_server))
        return tls;
    ha_err_set(err, HA_E_NO_MEMORY, "OpenSSL: %s", queued_reason());
    tls_close(&tls->chan);
    return NULL;
}

struct chan *chan_tls_new(struct tls_context *context, const struct identity *identity, int fd,
                          bool is_server, struct ha_err *err)
{
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    struct chan_tls *tls = tls_new(context, fd, is_server, err);

    if (!tls)
        return NULL;
    if (!show_certificate(tls, identity)) {
        ha_err_set(err, HA_E_NO_MEMORY, "OpenSSL: %s", queued_reason());
        tls_close(&tls->chan);
        return NULL;
    }
    return &tls->chan;
}

struct chan *chan_tls_psk_new(struct tls_context *context, unsigned lane, int fd, bool is_server,
                              struct ha_err *err)
{
    struct chan_tls *tls = tls_new(context, fd, is_server, err);

    if (!tls)
        return NULL;
    tls->lane = lane;
    name_lane(context, lane, tls->name);
    return &tls->chan;
}

unsigned chan_tls_lane(struct chan *chan)
{
    return ((struct chan_tls *)chan)->lane;
}

static int handshake_failed(struct chan_tls *tls, int code, struct ha_err *err)
{
    if (tls->verdict[0] != '\0') {
        ERR_clear_error();
        return ha_err_set(err, HA_E_AUTH, "%s", tls->verdict);
    }
    if (is_queued(SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)) {
        ERR_clear_error();
        return ha_err_set(err, HA_E_AUTH, "it showed no certificate");
    }
    if (tls->context->is_psk &&
        (is_queued(SSL_R_NO_SHARED_CIPHER) || is_queued(SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM) ||
         is_queued(SSL_R_BINDER_DOES_NOT_VERIFY) || is_queued(SSL_R_MISSING_SIGALGS_EXTENSION))) {
        ERR_clear_error();
        return ha_err_set(err, HA_E_AUTH, "it has no key of this migration");
    }
    if (is_queued(SSL_R_UNSUPPORTED_PROTOCOL) || is_queued(SSL_R_VERSION_TOO_LOW)) {
        ERR_clear_error();
        return ha_err_set(err, HA_E_VERSION, "it does not speak TLS 1.3");
    }
    return read_failed(tls, code, err);
}

static int has_agreed(struct chan_tls *tls, struct ha_err *err)
{
    const unsigned char *protocol = NULL;
    unsigned size = 0;

    SSL_get0_alpn_selected(tls->ssl, &protocol, &size);
    if (size != ALPN_SIZE - 1 || memcmp(protocol, &ALPN[1], size) != 0)
        return ha_err_set(err, HA_E_VERSION, "it does not speak hamgr-stream (ALPN)");
    if (SSL_version(tls->ssl) != TLS1_3_VERSION)
        return ha_err_set(err, HA_E_VERSION, "it does not speak TLS 1.3");
    if (tls->context->is_psk)
        return SSL_session_reused(tls->ssl)
                   ? 1
                   : ha_err_set(err, HA_E_AUTH, "it has no key of this migration");
    if (SSL_get_verify_result(tls->ssl) != X509_V_OK || !SSL_get0_peer_certificate(tls->ssl))
        return ha_err_set(err, HA_E_AUTH, "it showed no acceptable certificate");
    if (SSL_session_reused(tls->ssl))
        return ha_err_set(err, HA_E_AUTH, "a resumed session");
    return 1;
}

int chan_tls_handshake(struct chan *chan, struct ha_err *err)
{
    struct chan_tls *tls = (struct chan_tls *)chan;

    errno = 0;
    int r = SSL_do_handshake(tls->ssl);
    if (r == 1)
        return has_agreed(tls, err);
    int code = SSL_get_error(tls->ssl, r);
    if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE) {
        chan->read_wants = code == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
        return -EAGAIN;
    }
    return handshake_failed(tls, code, err);
}

void chan_tls_forget_key(struct chan *chan)
{
    struct chan_tls *tls = (struct chan_tls *)chan;

    SSL_certs_clear(tls->ssl);
}

const char *chan_tls_cipher(struct chan *chan)
{
    return SSL_get_cipher_name(((struct chan_tls *)chan)->ssl);
}
