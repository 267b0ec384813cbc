/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: the handshake of a stream's two ends. Whatever is no HELLO or WELCOME of this very
 * ticket is refused with a reason; the one that is, with any bit changed, is refused too.
 */
#include "tests/fuzz/fuzz.h"

#include "migrate/hello.h"

static struct streamp_start ticket(void)
{
    struct streamp_start start = {.generation = 1, .ticket = 7, .epoch = 3, .is_listener = true};

    memset(start.cluster_id.b, 0xc1, sizeof(start.cluster_id.b));
    memset(start.guest.b, 0x61, sizeof(start.guest.b));
    memset(start.secret, 0x5e, sizeof(start.secret));
    return start;
}

/* What the fuzzer says, against the ticket: it does not know the secret. */
static void try_stranger(const struct streamp_start *start, struct chan *chan, const uint8_t *data,
                         size_t size)
{
    struct ha_err err = {0};
    struct terms terms;
    uint16_t code = 0;

    if (size > FRAME_CONTROL_MAX) /* no longer frame gets here */
        return;
    REQUIRE(hello_check(start, chan, data, size, &code, &err) < 0);
    REQUIRE(code != 0 && err.text[0] != '\0');
    err.text[0] = '\0';
    REQUIRE(welcome_check(start, chan, data, size, &terms, &err) < 0 && err.text[0] != '\0');
    if (hello_agree(start, data, size, &terms, &err) == 0) {
        REQUIRE(terms.connections <= start->connections && terms.window <= FRAME_WINDOW);
    }
}

/* A good one, changed where the input says. */
static void try_changed(const struct streamp_start *start, struct chan *chan, struct fuzz_input *in)
{
    uint8_t hello[FRAME_HELLO_LANES], welcome[FRAME_WELCOME_LANES];
    struct ha_err err = {0};
    struct terms terms, back;
    uint16_t code = 0;

    int size = hello_make(start, chan, hello);
    REQUIRE(size > 0 && hello_check(start, chan, hello, (size_t)size, &code, &err) == 0);
    REQUIRE(hello_agree(start, hello, (size_t)size, &terms, &err) == 0);
    REQUIRE(terms.connections == start->connections);
    int answer = welcome_make(start, chan, &terms, welcome);
    REQUIRE(answer > 0 && welcome_check(start, chan, welcome, (size_t)answer, &back, &err) == 0);
    REQUIRE(back.connections == terms.connections && back.window == terms.window);
    uint16_t at = fuzz_u16(in);
    uint8_t bits = fuzz_u8(in);
    if (bits == 0)
        return;
    hello[at % (unsigned)size] ^= bits;
    welcome[at % (unsigned)answer] ^= bits;
    REQUIRE(hello_check(start, chan, hello, (size_t)size, &code, &err) < 0);
    REQUIRE(welcome_check(start, chan, welcome, (size_t)answer, &back, &err) < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct streamp_start start = ticket();
    uint8_t *copy = fuzz_copy(data, size);
    struct chan *chan = chan_mem_new(copy, size);

    REQUIRE(chan);
    for (unsigned connections = 0; connections <= 4; connections += 4) {
        struct fuzz_input again = in;
        start.connections = (uint8_t)connections;
        try_stranger(&start, chan, copy, size);
        try_changed(&start, chan, &again);
    }
    chan->ops->close(chan);
    free(copy);
    return 0;
}
