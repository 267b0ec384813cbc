/* SPDX-License-Identifier: Apache-2.0
 *
 * Who asks whom for doctor: a question goes to all nodes over the group; each lets its hamgr-hv
 * look at the host (a worker, which may hang without harm), adds what its hamgrd knows, and tells
 * it. Who does not answer in time is told as silent. A question may name things that a guest needs:
 * they are looked for, too.
 */
#include "hamgr/shell/shell.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hamgr/base/assert.h"

/* A look takes 0.1 s, and the start of a worker on a busy node. One that hangs is told without. */
#define LOOK_MS    5000u
#define ANSWER_MS  8000u
#define ASKED_MAX  16u /* askers served by one look */
#define ROUNDS_MAX 4u  /* of our own operators at once */

struct round {
    struct round *next;
    uint64_t id, due_ms, asked_wall_ms;
    doctor_fn done;
    void *user;
    uint32_t asked[HA_NODES_MAX], asked_count; /* who was there to be asked */
    uint32_t told_count;
    struct told {
        uint32_t node;
        uint64_t wall_ms;
        struct ha_facts facts;
        uint32_t found_count;
        struct look_found found[PEER_LOOK_MAX];
    } told[]; /* HA_NODES_MAX */
};

struct shell_doctor {
    struct round *rounds;
    uint64_t id_high;
    struct asker {
        uint32_t node;
        bool is_looked_for; /* its things are part of the look under way */
        struct peer_facts_ask ask;
    } askers[ASKED_MAX];
    uint32_t asker_count;
    uint64_t look_request; /* not 0: under way at hamgr-hv */
    uint64_t look_due_ms;  /* not 0: askers wait for it until then */
    int look_fd;
    struct look_ask ask;
    struct look_tell tell;
    struct peer_facts_tell answer;
    struct ha_doctor_input input;
    struct doctor_found found[HA_NODES_MAX]; /* parallel to input.nodes */
};

void doctor_open(struct hamgrd *d)
{
    d->doctor = calloc(1, sizeof(*d->doctor));
    ha_assert(d->doctor);
    d->doctor->look_fd = -1;
}

bool doctor_is_busy(const struct hamgrd *d)
{
    return d->doctor->rounds || d->doctor->look_due_ms > 0;
}

/* ---- rounds: questions of our own --------------------------------------------------------------
 */

static void fill_node(const struct hamgrd *d, const struct round *round, const struct ha_node *node,
                      struct ha_doctor_node *ret, struct doctor_found *ret_found)
{
    bool was_asked = false;

    *ret_found = (struct doctor_found){0};
    ret->id = node->id;
    memcpy(ret->name, node->name, sizeof(ret->name));
    ret->asked_wall_ms = round->asked_wall_ms;
    for (uint32_t i = 0; i < round->told_count; i++) {
        if (round->told[i].node == node->id) {
            ret->facts = &round->told[i].facts;
            ret->told_wall_ms = round->told[i].wall_ms;
            *ret_found = (struct doctor_found){round->told[i].found_count, round->told[i].found};
            return;
        }
    }
    for (uint32_t i = 0; i < round->asked_count; i++)
        was_asked = was_asked || round->asked[i] == node->id;
    if (was_asked)
        snprintf(ret->silence, sizeof(ret->silence), "no answer within %u s", ANSWER_MS / 1000);
    else
        snprintf(ret->silence, sizeof(ret->silence), "its hamgrd is not in the group%s",
                 d->member_count == 0 ? " (this node is in none)" : "");
}

static void end_round(struct hamgrd *d, struct round **place)
{
    struct round *round = *place;
    struct ha_doctor_input *in = &d->doctor->input;

    *place = round->next;
    memset(in, 0, sizeof(*in));
    shell_refresh(d);
    in->state = &d->state;
    in->rt = &d->rt;
    in->wall_ms = shell_wall_ms();
    in->guest_count = things_guests(d, &in->guests);
    for (uint32_t i = 0; i < d->state.node_count; i++)
        fill_node(d, round, &d->state.nodes[i], &in->nodes[i], &d->doctor->found[i]);
    in->node_count = d->state.node_count;
    round->done(round->user, in, d->doctor->found);
    free(round);
}

static bool is_complete(const struct round *round)
{
    return round->told_count >= round->asked_count;
}

void doctor_told(struct hamgrd *d, uint32_t from, const struct peer_facts_tell *tell)
{
    for (struct round *round = d->doctor->rounds; round; round = round->next) {
        if (round->id != tell->id || round->told_count == HA_NODES_MAX)
            continue;
        for (uint32_t i = 0; i < round->told_count; i++)
            if (round->told[i].node == from)
                return;
        struct told *told = &round->told[round->told_count++];
        told->node = from;
        told->wall_ms = shell_wall_ms();
        told->facts = tell->facts;
        told->found_count = tell->found_count;
        memcpy(told->found, tell->found, tell->found_count * sizeof(told->found[0]));
        shell_tick_soon(d); /* the round ends there, not inside of what told us */
        return;
    }
}

static uint32_t count_rounds(const struct shell_doctor *doctor)
{
    uint32_t count = 0;

    for (const struct round *round = doctor->rounds; round; round = round->next)
        count++;
    return count;
}

/* ---- answers -----------------------------------------------------------------------------------
 */

static void put_ask(struct ha_writer *w, const void *m)
{
    peer_facts_ask_encode(w, m);
}

static void put_tell(struct ha_writer *w, const void *m)
{
    peer_facts_tell_encode(w, m);
}

static bool is_same_thing(const struct look_thing *a, const struct look_thing *b)
{
    return a->kind == b->kind && strcmp(a->name, b->name) == 0;
}

/* What the look found of it: nothing, if there was no room for it. */
static struct look_found found_of(const struct shell_doctor *doctor, const struct look_thing *thing)
{
    for (uint32_t i = 0; i < doctor->ask.thing_count && i < doctor->tell.found_count; i++) {
        if (is_same_thing(&doctor->ask.things[i], thing))
            return doctor->tell.found[i];
    }
    return (struct look_found){.state = LOOK_UNKNOWN};
}

static void answer(struct hamgrd *d, const struct asker *asker, bool is_found)
{
    struct peer_facts_tell *m = &d->doctor->answer;

    m->id = asker->ask.id;
    m->found_count = asker->ask.thing_count;
    for (uint32_t i = 0; i < m->found_count; i++)
        m->found[i] = is_found ? found_of(d->doctor, &asker->ask.things[i])
                               : (struct look_found){.state = LOOK_UNKNOWN};
    if (asker->node == d->identity.node)
        doctor_told(d, d->identity.node, m);
    else
        peers_send(d, PEER_FACTS_TELL, asker->node, put_tell, m);
}

static void begin_look(struct hamgrd *d);

/* All whom the look that ended serves; without one, all. Others wait for another look. */
static void answer_all(struct hamgrd *d, const char *why_not)
{
    struct shell_doctor *doctor = d->doctor;
    uint32_t left = 0;

    memset(&doctor->answer, 0, sizeof(doctor->answer));
    ownfacts_fill(d, &doctor->answer.facts);
    if (why_not)
        ha_facts_say(&doctor->answer.facts, HA_TEXT_LOOK_WHY, why_not);
    else
        ha_facts_merge(&doctor->answer.facts, &doctor->tell.facts);
    for (uint32_t i = 0; i < doctor->asker_count; i++) {
        const struct asker *asker = &doctor->askers[i];
        if (why_not || asker->is_looked_for || asker->ask.thing_count == 0)
            answer(d, asker, !why_not);
        else
            doctor->askers[left++] = *asker;
    }
    doctor->asker_count = left;
    doctor->look_due_ms = 0;
    if (left > 0)
        begin_look(d);
}

static bool read_tell(struct shell_doctor *doctor)
{
    static uint8_t bytes[LOOK_TELL_BYTES_MAX];
    ssize_t size = pread(doctor->look_fd, bytes, sizeof(bytes), 0);

    return size > 0 && look_tell_decode(bytes, (size_t)size, &doctor->tell) == 0;
}

static void add_thing(struct look_ask *ask, const struct look_thing *thing)
{
    for (uint32_t i = 0; i < ask->thing_count; i++) {
        if (is_same_thing(&ask->things[i], thing))
            return;
    }
    if (ask->thing_count < LOOK_THINGS_MAX)
        ask->things[ask->thing_count++] = *thing;
}

/* False: hamgr-hv can't be asked. */
static bool send_look(struct hamgrd *d)
{
    struct shell_doctor *doctor = d->doctor;
    int memfd = memfd_create("hamgr-look", MFD_CLOEXEC);
    int theirs = memfd < 0 ? -1 : dup(memfd);

    if (theirs >= 0) {
        ownfacts_ask(d, &doctor->ask);
        for (uint32_t i = 0; i < doctor->asker_count; i++) {
            struct asker *asker = &doctor->askers[i];
            asker->is_looked_for = true;
            for (uint32_t n = 0; n < asker->ask.thing_count; n++)
                add_thing(&doctor->ask, &asker->ask.things[n]);
        }
        things_ask(d, &doctor->ask);
        doctor->look_request = hvlink_look(d, &doctor->ask, theirs);
    }
    doctor->look_fd = doctor->look_request ? memfd : -1;
    if (memfd >= 0 && !doctor->look_request)
        close(memfd);
    return doctor->look_request != 0;
}

static void drop_look(struct shell_doctor *doctor)
{
    if (doctor->look_fd >= 0)
        close(doctor->look_fd);
    doctor->look_fd = -1;
    doctor->look_request = 0;
}

static void begin_look(struct hamgrd *d)
{
    struct shell_doctor *doctor = d->doctor;

    doctor->look_due_ms = shell_now_ms() + LOOK_MS;
    shell_tick_soon(d);
    /* One that is under way answers these as well. */
    if (!doctor->look_request && !send_look(d))
        doctor->look_due_ms = 1; /* answered with the next tick, without */
}

void doctor_hv_done(struct hamgrd *d, uint64_t request, const struct hvp_done *done)
{
    struct shell_doctor *doctor = d->doctor;

    if (!doctor || request == 0 || request != doctor->look_request)
        return;
    bool is_read = done->outcome == HV_OK && read_tell(doctor);
    drop_look(doctor);
    if (done->outcome == HV_FAILED && strncmp(done->text, "busy", 4) == 0)
        return; /* the look for the guests' things is under way: again with the next tick */
    if (done->outcome == HV_OK)
        answer_all(d, is_read ? NULL : "its answer is damaged");
    else
        answer_all(d, done->text);
}

void doctor_asked(struct hamgrd *d, uint32_t from, const struct peer_facts_ask *ask)
{
    struct shell_doctor *doctor = d->doctor;

    if (doctor->asker_count == ASKED_MAX)
        return;
    doctor->askers[doctor->asker_count++] = (struct asker){.node = from, .ask = *ask};
    if (doctor->look_due_ms == 0)
        begin_look(d);
}

void doctor_begin(struct hamgrd *d, const struct look_thing *things, uint32_t count, doctor_fn done,
                  void *user)
{
    struct shell_doctor *doctor = d->doctor;
    struct round *round = calloc(1, sizeof(*round) + HA_NODES_MAX * sizeof(struct told));

    ha_assert(round);
    round->done = done;
    round->user = user;
    round->asked_wall_ms = shell_wall_ms();
    round->id = d->nonce ^ ++doctor->id_high;
    round->next = doctor->rounds;
    bool has_room = count_rounds(doctor) < ROUNDS_MAX;
    round->due_ms = has_room ? shell_now_ms() + ANSWER_MS : 0;
    doctor->rounds = round;
    shell_tick_soon(d);
    if (!has_room)
        return; /* it ends with the next tick, with nobody asked */
    round->asked[round->asked_count++] = d->identity.node;
    for (uint32_t i = 0; i < d->member_count; i++) {
        if (d->members[i] != d->identity.node && round->asked_count < HA_NODES_MAX)
            round->asked[round->asked_count++] = d->members[i];
    }
    struct peer_facts_ask ask = {.id = round->id, .thing_count = count};
    ha_assert(count <= PEER_LOOK_MAX);
    for (uint32_t i = 0; i < count; i++)
        ask.things[i] = things[i];
    peers_send(d, PEER_FACTS_ASK, 0, put_ask, &ask);
    doctor_asked(d, d->identity.node, &ask);
}

void doctor_tick(struct hamgrd *d)
{
    struct shell_doctor *doctor = d->doctor;
    uint64_t now_ms = shell_now_ms();
    struct round **place = &doctor->rounds;

    /* hamgr-hv kills a look that hangs, and says so; if hamgr-hv itself went, nobody will. */
    if (doctor->look_request && !d->is_hv_welcomed)
        drop_look(doctor);
    if (doctor->look_due_ms > 0 && now_ms >= doctor->look_due_ms)
        answer_all(d, d->is_hv_welcomed ? "the look hangs: storage that does not answer?"
                                        : "hamgr-hv does not answer");
    else if (doctor->look_due_ms > 0 && !doctor->look_request)
        (void)send_look(d);
    while (*place) {
        if (now_ms >= (*place)->due_ms || is_complete(*place))
            end_round(d, place);
        else
            place = &(*place)->next;
    }
}
