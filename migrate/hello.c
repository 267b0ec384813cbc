/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/hello.h"

#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "hamgr/base/assert.h"

#define HELLO_PROOF_AT   64u
#define WELCOME_PROOF_AT 8u
#define ROLE_MAX         32u

int hello_proof(const struct streamp_start *start, struct chan *chan, enum hello_role role,
                const uint8_t *payload, size_t size, size_t proof_at,
                uint8_t ret_proof[FRAME_PROOF_SIZE])
{
    const char *words = role == HELLO_SENDER ? "hamgr-stream sender 1" : "hamgr-stream receiver 1";
    uint8_t text[ROLE_MAX + CHAN_BINDING_SIZE + FRAME_CONTROL_MAX];
    struct ha_writer w = ha_writer_of(text, sizeof(text));
    uint8_t binding[CHAN_BINDING_SIZE];
    unsigned length = 0;

    int rc = chan->ops->bind(chan, binding);
    if (rc < 0)
        return rc;
    ha_put_raw(&w, words, strlen(words));
    ha_put_raw(&w, binding, sizeof(binding));
    ha_put_raw(&w, payload, proof_at);
    ha_put_raw(&w, payload + proof_at + FRAME_PROOF_SIZE, size - proof_at - FRAME_PROOF_SIZE);
    ha_assert(!w.failed);
    if (!HMAC(EVP_sha256(), start->secret, sizeof(start->secret), text, w.position, ret_proof,
              &length) ||
        length != FRAME_PROOF_SIZE)
        return -HA_E_NO_MEMORY;
    OPENSSL_cleanse(binding, sizeof(binding));
    OPENSSL_cleanse(text, sizeof(text));
    return 0;
}

int hello_make(const struct streamp_start *start, struct chan *chan, uint8_t *ret_payload)
{
    struct ha_writer w = ha_writer_of(ret_payload, FRAME_HELLO_LANES);
    struct frame_hello m = {
        .version_min = FRAME_VERSION,
        .version_max = FRAME_VERSION,
        .features = start->connections > 0 ? FRAME_LANES : 0,
        .connections = start->connections,
        .window = FRAME_WINDOW,
        .cluster_id = start->cluster_id,
        .generation = start->generation,
        .ticket = start->ticket,
        .guest = start->guest,
        .epoch = start->epoch,
    };

    frame_hello_encode(&w, &m);
    ha_assert(!w.failed);
    int rc = hello_proof(start, chan, HELLO_SENDER, ret_payload, w.position, HELLO_PROOF_AT,
                         ret_payload + HELLO_PROOF_AT);
    return rc < 0 ? rc : (int)w.position;
}

/* The first thing HELLO and our ticket disagree about, in the order of STREAM.md; 0 = nothing. */
static uint16_t difference(const struct streamp_start *start, const struct frame_hello *m)
{
    if (m->version_min > FRAME_VERSION || m->version_max < FRAME_VERSION)
        return FRAME_ABORT_VERSION;
    if (!ha_uuid_equal(m->cluster_id, start->cluster_id))
        return FRAME_ABORT_CLUSTER;
    if (m->generation != start->generation)
        return FRAME_ABORT_GENERATION;
    if (m->ticket != start->ticket)
        return FRAME_ABORT_TICKET;
    if (!ha_uuid_equal(m->guest, start->guest))
        return FRAME_ABORT_GUEST;
    if (m->epoch != start->epoch)
        return FRAME_ABORT_EPOCH;
    return 0;
}

static const char *difference_text(uint16_t code)
{
    switch (code) {
    case FRAME_ABORT_VERSION:
        return "no common version of the page stream";
    case FRAME_ABORT_CLUSTER:
        return "it belongs to another cluster";
    case FRAME_ABORT_GENERATION:
        return "it belongs to another generation of the cluster";
    case FRAME_ABORT_TICKET:
        return "it is for another ticket";
    case FRAME_ABORT_GUEST:
        return "it is for another guest";
    case FRAME_ABORT_EPOCH:
        return "it is for another epoch";
    default:
        return "it does not know the ticket's secret";
    }
}

int hello_check(const struct streamp_start *start, struct chan *chan, const uint8_t *payload,
                size_t size, uint16_t *ret_code, struct ha_err *err)
{
    struct frame_hello m;
    uint8_t proof[FRAME_PROOF_SIZE];

    *ret_code = FRAME_ABORT_PROTOCOL;
    int rc = frame_hello_decode(payload, size, &m, err);
    if (rc < 0)
        return rc;
    *ret_code = difference(start, &m);
    if (*ret_code != 0)
        return ha_err_set(err, HA_E_REFUSED, "%s", difference_text(*ret_code));
    *ret_code = FRAME_ABORT_INTERNAL;
    rc = hello_proof(start, chan, HELLO_SENDER, payload, size, HELLO_PROOF_AT, proof);
    if (rc < 0)
        return ha_err_set(err, rc, "proof of the secret: %s", ha_err_text(rc));
    *ret_code = FRAME_ABORT_SECRET;
    if (CRYPTO_memcmp(proof, m.proof, sizeof(proof)) != 0)
        return ha_err_set(err, HA_E_REFUSED, "%s", difference_text(FRAME_ABORT_SECRET));
    return 0;
}

int hello_agree(const struct streamp_start *start, const uint8_t *payload, size_t size,
                struct terms *ret, struct ha_err *err)
{
    struct frame_hello m;

    memset(ret, 0, sizeof(*ret));
    int rc = frame_hello_decode(payload, size, &m, err);
    if (rc < 0 || (m.features & FRAME_LANES) == 0 || start->connections == 0 || !start->is_listener)
        return rc;
    /* Without a listener nobody else could come. */
    ret->connections =
        m.connections < start->connections ? m.connections : (uint16_t)start->connections;
    ret->window = m.window < FRAME_WINDOW ? m.window : FRAME_WINDOW;
    ret->grace_ms = start->grace_ms;
    if (RAND_priv_bytes(ret->psk, sizeof(ret->psk)) != 1)
        return ha_err_set(err, HA_E_NO_MEMORY, "no random bytes");
    return 0;
}

int welcome_make(const struct streamp_start *start, struct chan *chan, const struct terms *terms,
                 uint8_t *ret_payload)
{
    struct ha_writer w = ha_writer_of(ret_payload, FRAME_WELCOME_LANES);
    struct frame_welcome m = {.version = FRAME_VERSION};

    if (terms && terms->connections > 0) {
        m.features = FRAME_LANES;
        m.connections = terms->connections;
        m.window = terms->window;
        m.grace_ms = terms->grace_ms;
        memcpy(m.psk, terms->psk, sizeof(m.psk));
    }
    frame_welcome_encode(&w, &m);
    OPENSSL_cleanse(m.psk, sizeof(m.psk));
    ha_assert(!w.failed);
    int rc = hello_proof(start, chan, HELLO_RECEIVER, ret_payload, w.position, WELCOME_PROOF_AT,
                         ret_payload + WELCOME_PROOF_AT);
    return rc < 0 ? rc : (int)w.position;
}

/* What the receiver granted must be within what we offered. */
static int take_terms(const struct streamp_start *start, struct frame_welcome *m, struct terms *ret,
                      struct ha_err *err)
{
    memset(ret, 0, sizeof(*ret));
    if (m->features == 0)
        return 0;
    if (m->connections > start->connections || m->window > FRAME_WINDOW)
        return ha_err_set(err, HA_E_PEER, "the receiver granted more connections than offered");
    ret->connections = m->connections;
    ret->window = m->window;
    ret->grace_ms = m->grace_ms < start->grace_ms ? m->grace_ms : start->grace_ms;
    memcpy(ret->psk, m->psk, sizeof(ret->psk));
    OPENSSL_cleanse(m->psk, sizeof(m->psk));
    return 0;
}

int welcome_check(const struct streamp_start *start, struct chan *chan, const uint8_t *payload,
                  size_t size, struct terms *ret, struct ha_err *err)
{
    struct frame_welcome m;
    uint8_t proof[FRAME_PROOF_SIZE];
    uint32_t offered = start->connections > 0 ? FRAME_LANES : 0;

    int rc = frame_welcome_decode(payload, size, &m, err);
    if (rc < 0)
        return rc;
    if (m.version != FRAME_VERSION || (m.features & ~offered) != 0)
        return ha_err_set(err, HA_E_VERSION, "the receiver chose version %u, features %#x",
                          (unsigned)m.version, (unsigned)m.features);
    rc = hello_proof(start, chan, HELLO_RECEIVER, payload, size, WELCOME_PROOF_AT, proof);
    if (rc < 0)
        return ha_err_set(err, rc, "proof of the secret: %s", ha_err_text(rc));
    if (CRYPTO_memcmp(proof, m.proof, sizeof(proof)) != 0)
        return ha_err_set(err, HA_E_AUTH, "the receiver does not know the ticket's secret");
    return take_terms(start, &m, ret, err);
}
