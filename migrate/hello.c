/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/hello.h"

#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

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
    struct ha_writer w = ha_writer_of(ret_payload, FRAME_HELLO_SIZE);
    struct frame_hello m = {
        .version_min = FRAME_VERSION,
        .version_max = FRAME_VERSION,
        .cluster_id = start->cluster_id,
        .generation = start->generation,
        .ticket = start->ticket,
        .guest = start->guest,
        .epoch = start->epoch,
    };

    frame_hello_encode(&w, &m);
    ha_assert(!w.failed && w.position == FRAME_HELLO_SIZE);
    return hello_proof(start, chan, HELLO_SENDER, ret_payload, FRAME_HELLO_SIZE, HELLO_PROOF_AT,
                       ret_payload + HELLO_PROOF_AT);
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

int welcome_make(const struct streamp_start *start, struct chan *chan, uint8_t *ret_payload)
{
    struct ha_writer w = ha_writer_of(ret_payload, FRAME_WELCOME_SIZE);
    struct frame_welcome m = {.version = FRAME_VERSION};

    frame_welcome_encode(&w, &m);
    ha_assert(!w.failed && w.position == FRAME_WELCOME_SIZE);
    return hello_proof(start, chan, HELLO_RECEIVER, ret_payload, FRAME_WELCOME_SIZE,
                       WELCOME_PROOF_AT, ret_payload + WELCOME_PROOF_AT);
}

int welcome_check(const struct streamp_start *start, struct chan *chan, const uint8_t *payload,
                  size_t size, struct ha_err *err)
{
    struct frame_welcome m;
    uint8_t proof[FRAME_PROOF_SIZE];

    int rc = frame_welcome_decode(payload, size, &m, err);
    if (rc < 0)
        return rc;
    if (m.version != FRAME_VERSION || m.features != 0)
        return ha_err_set(err, HA_E_VERSION, "the receiver chose version %u, features %#x",
                          (unsigned)m.version, (unsigned)m.features);
    rc = hello_proof(start, chan, HELLO_RECEIVER, payload, size, WELCOME_PROOF_AT, proof);
    if (rc < 0)
        return ha_err_set(err, rc, "proof of the secret: %s", ha_err_text(rc));
    if (CRYPTO_memcmp(proof, m.proof, sizeof(proof)) != 0)
        return ha_err_set(err, HA_E_AUTH, "the receiver does not know the ticket's secret");
    return 0;
}
