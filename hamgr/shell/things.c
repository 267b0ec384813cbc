/* SPDX-License-Identifier: Apache-2.0
 *
 * Can the guests run here? On Xen, the things that their definitions name (kernels, disks, bridges)
 * are looked for on every node by its hamgr-hv, each minute and when a definition comes; what was
 * found is told to all, and every node makes the same bars of it for planner, explain and refusals.
 * Nodes of other hypervisors look for nothing: then nothing here is ever done.
 */
#include "hamgr/shell/shell.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "hamgr/doctor/bars.h"
#include "hamgr/hv/xen/definition.h"

#define LOOK_EVERY_MS  60000u
#define LOOK_SOON_MS   10000u /* something is missing: a guest may wait for it */
#define RETRY_MS       2000u  /* another look is under way, or hamgr-hv was away */
#define NOTES_PER_TICK 32u    /* definitions read: 0.1 ms each */
#define THINGS_MAX     PEER_THINGS_MAX
#define BARS_MAX       8192u

/* What a definition says. */
struct note {
    struct ha_digest digest;
    uint8_t kind; /* enum ha_guest_kind */
    bool is_never_quiet;
    char elevator[XEN_ELEVATOR_MAX];
    uint32_t thing_count;
    const struct look_thing **things; /* of shell_things.things */
};

struct told {
    uint32_t node;
    struct peer_things things;
};

struct shell_things {
    struct note *notes; /* ascending by digest */
    uint32_t note_count, note_capacity;
    struct look_thing *things[THINGS_MAX]; /* each once, for good: paths are few and stay */
    uint32_t thing_count;
    struct note *noting; /* whose definition is read now */

    uint64_t look_next_ms;
    uint64_t look_request;
    uint32_t look_first; /* the batch under way begins here */
    int look_fd;
    struct look_ask ask;
    struct look_tell tell;

    struct peer_things own;
    struct told *told; /* HA_NODES_MAX */
    uint32_t told_count;

    bool is_news; /* since bars were made */
    uint64_t bars_applied;
    struct ha_bar *bars;
    struct ha_bars_node *nodes;    /* HA_NODES_MAX */
    struct ha_bars_guest *guests;  /* HA_GUESTS_MAX */
    struct ha_doctor_guest *quiet; /* HA_GUESTS_MAX */
};

static bool is_used(const struct hamgrd *d)
{
    return strcmp(d->config.hypervisor, "xen") == 0 && d->is_hv_welcomed &&
           strcmp(d->hv_welcome.caps.driver, "xen") == 0;
}

/* Some megabytes: only where they are used. */
static struct shell_things *things_of(struct hamgrd *d)
{
    struct shell_things *t = d->things;

    if (t)
        return t;
    t = calloc(1, sizeof(*t));
    ha_assert(t);
    t->look_fd = -1;
    t->told = calloc(HA_NODES_MAX, sizeof(*t->told));
    t->bars = calloc(BARS_MAX, sizeof(*t->bars));
    t->nodes = calloc(HA_NODES_MAX, sizeof(*t->nodes));
    t->guests = calloc(HA_GUESTS_MAX, sizeof(*t->guests));
    t->quiet = calloc(HA_GUESTS_MAX, sizeof(*t->quiet));
    ha_assert(t->told && t->bars && t->nodes && t->guests && t->quiet);
    d->things = t;
    return t;
}

void things_free(struct hamgrd *d)
{
    struct shell_things *t = d->things;

    if (!t)
        return;
    for (uint32_t i = 0; i < t->note_count; i++)
        free(t->notes[i].things);
    for (uint32_t i = 0; i < t->thing_count; i++)
        free(t->things[i]);
    if (t->look_fd >= 0)
        close(t->look_fd);
    free(t->notes);
    free(t->told);
    free(t->bars);
    free(t->nodes);
    free(t->guests);
    free(t->quiet);
    free(t);
    d->things = NULL;
}

/* ---- definitions -------------------------------------------------------------------------------
 */

static bool is_before(struct ha_digest a, struct ha_digest b)
{
    return a.low != b.low ? a.low < b.low : a.high < b.high;
}

/* Where the note of digest is, or belongs. */
static uint32_t place_of(const struct shell_things *t, struct ha_digest digest)
{
    uint32_t low = 0, high = t->note_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (is_before(t->notes[middle].digest, digest))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct note *note_of(const struct shell_things *t, struct ha_digest digest)
{
    uint32_t place = place_of(t, digest);
    bool is_there = place < t->note_count && ha_digest_equal(t->notes[place].digest, digest);

    return is_there ? &t->notes[place] : NULL;
}

static const struct look_thing *keep_thing(struct shell_things *t, uint8_t kind, const char *name)
{
    for (uint32_t i = 0; i < t->thing_count; i++) {
        if (t->things[i]->kind == kind && strcmp(t->things[i]->name, name) == 0)
            return t->things[i];
    }
    struct look_thing *thing = calloc(1, sizeof(*thing));
    if (!thing || t->thing_count == THINGS_MAX || strlen(name) >= sizeof(thing->name)) {
        free(thing);
        return NULL; /* not looked for: the node that builds the guest will see */
    }
    thing->kind = kind;
    memcpy(thing->name, name, strlen(name));
    t->things[t->thing_count++] = thing;
    t->look_next_ms = 0;
    return thing;
}

static void add_thing(void *user, enum xen_thing kind, const char *name)
{
    static const uint8_t kinds[] = {[XEN_THING_FILE] = LOOK_FILE,
                                    [XEN_THING_DISK] = LOOK_DISK,
                                    [XEN_THING_BRIDGE] = LOOK_BRIDGE,
                                    [XEN_THING_MEDIUM] = LOOK_MEDIUM};
    struct shell_things *t = user;
    struct note *note = t->noting;
    const struct look_thing *thing = keep_thing(t, kinds[kind], name);
    const struct look_thing **grown =
        thing ? realloc(note->things, (note->thing_count + 1) * sizeof(*grown)) : NULL;

    if (!grown)
        return;
    note->things = grown;
    note->things[note->thing_count++] = thing;
}

static void read_definition(struct shell_things *t, struct note *note, const uint8_t *text,
                            size_t size)
{
    struct xen_definition definition;
    struct ha_err err = {0};

    if (xen_definition_parse(text, size, NULL, &definition, &err) != 0)
        return;
    note->kind = definition.kind; /* PV, PVH, HVM in both */
    note->is_never_quiet = definition.disks == XEN_DISKS_OTHER;
    memcpy(note->elevator, definition.elevator, sizeof(note->elevator));
    t->noting = note;
    xen_definition_things(text, size, add_thing, t);
}
_Static_assert((int)HA_KIND_PV == XEN_KIND_PV && (int)HA_KIND_PVH == XEN_KIND_PVH &&
                   (int)HA_KIND_HVM == XEN_KIND_HVM,
               "kinds of guests have one numbering");

static struct note *add_note(struct shell_things *t, struct ha_digest digest)
{
    if (t->note_count == t->note_capacity) {
        uint32_t capacity = t->note_capacity ? 2 * t->note_capacity : 64;
        struct note *grown = realloc(t->notes, capacity * sizeof(*grown));
        ha_assert(grown);
        t->notes = grown;
        t->note_capacity = capacity;
    }
    uint32_t place = place_of(t, digest);
    memmove(&t->notes[place + 1], &t->notes[place], (t->note_count - place) * sizeof(t->notes[0]));
    t->note_count++;
    t->notes[place] = (struct note){.digest = digest};
    return &t->notes[place];
}

static void note_definitions(struct hamgrd *d)
{
    struct shell_things *t = d->things;
    uint32_t read = 0;

    for (uint32_t i = 0; i < d->state.guest_count && read < NOTES_PER_TICK; i++) {
        struct ha_digest digest = d->state.guests[i].definition;
        size_t size = 0;
        if (note_of(t, digest))
            continue;
        const uint8_t *text = store_definition(d->store, digest, &size);
        if (!text)
            continue; /* it is still being copied here */
        read_definition(t, add_note(t, digest), text, size);
        t->is_news = true;
        read++;
    }
}

/* ---- looking -----------------------------------------------------------------------------------
 */

static void begin_batch(struct hamgrd *d)
{
    struct shell_things *t = d->things;
    uint32_t left = t->thing_count - t->look_first;
    int memfd = memfd_create("hamgr-things", MFD_CLOEXEC);
    int theirs = memfd < 0 ? -1 : dup(memfd);

    t->look_next_ms = shell_now_ms() + RETRY_MS;
    ownfacts_ask(d, &t->ask);
    t->ask.thing_count = left < LOOK_THINGS_MAX ? left : LOOK_THINGS_MAX;
    for (uint32_t i = 0; i < t->ask.thing_count; i++)
        t->ask.things[i] = *t->things[t->look_first + i];
    if (theirs >= 0)
        t->look_request = hvlink_look(d, &t->ask, theirs);
    t->look_fd = t->look_request ? memfd : -1;
    if (memfd >= 0 && !t->look_request)
        close(memfd);
}

static int compare_found(const void *left, const void *right)
{
    const struct ha_found *a = left, *b = right;

    return a->key < b->key ? -1 : a->key > b->key;
}

static void take_batch(struct shell_things *t)
{
    const struct ha_facts *facts = &t->tell.facts;

    for (uint32_t i = 0; i < t->tell.found_count && t->own.count < THINGS_MAX; i++)
        t->own.found[t->own.count++] = (struct ha_found){.key = ha_thing_key(&t->ask.things[i]),
                                                         .state = t->tell.found[i].state,
                                                         .id = t->tell.found[i].id};
    t->own.is_paging_known = facts->is_known[HA_FACT_HAS_SHADOW];
    t->own.has_shadow = ha_facts_is(facts, HA_FACT_HAS_SHADOW);
    t->own.has_hap = ha_facts_is(facts, HA_FACT_HAS_HAP);
    struct ha_bars_cpu *cpu = &t->own.cpu;
    memcpy(cpu->pv, facts->text[HA_TEXT_CPU_PV], sizeof(cpu->pv));
    memcpy(cpu->pv_max, facts->text[HA_TEXT_CPU_PV_MAX], sizeof(cpu->pv_max));
    memcpy(cpu->hvm, facts->text[HA_TEXT_CPU_HVM], sizeof(cpu->hvm));
    memcpy(cpu->hvm_max, facts->text[HA_TEXT_CPU_HVM_MAX], sizeof(cpu->hvm_max));
}

static void put_things(struct ha_writer *w, const void *m)
{
    peer_things_encode(w, m);
}

static bool lacks_something(const struct peer_things *things)
{
    for (uint32_t i = 0; i < things->count; i++) {
        if (things->found[i].state == LOOK_MISSING || things->found[i].state == LOOK_WRONG)
            return true;
    }
    return false;
}

static void end_look(struct hamgrd *d)
{
    struct shell_things *t = d->things;
    uint32_t pause_ms = lacks_something(&t->own) ? LOOK_SOON_MS : LOOK_EVERY_MS;

    qsort(t->own.found, t->own.count, sizeof(t->own.found[0]), compare_found);
    t->look_first = 0;
    t->look_next_ms = shell_now_ms() + pause_ms;
    peers_send(d, PEER_THINGS, 0, put_things, &t->own);
    things_told(d, d->identity.node, &t->own);
}

void things_hv_done(struct hamgrd *d, uint64_t request, const struct hvp_done *done)
{
    static uint8_t bytes[LOOK_TELL_BYTES_MAX];
    struct shell_things *t = d->things;

    if (!t || request == 0 || request != t->look_request)
        return;
    ssize_t size = done->outcome == HV_OK ? pread(t->look_fd, bytes, sizeof(bytes), 0) : -1;
    close(t->look_fd);
    t->look_fd = -1;
    t->look_request = 0;
    if (size <= 0 || look_tell_decode(bytes, (size_t)size, &t->tell) < 0 ||
        t->tell.found_count != t->ask.thing_count)
        return; /* again a little later; what was told before stands meanwhile */
    if (t->look_first == 0)
        t->own.count = 0;
    take_batch(t);
    t->look_first += t->ask.thing_count;
    if (t->look_first < t->thing_count)
        begin_batch(d);
    else
        end_look(d);
}

/* ---- what all found ----------------------------------------------------------------------------
 */

/* Where the word of a node is kept: its own place, one of a node that was removed, or a new one. */
static struct told *told_of(struct shell_things *t, const struct ha_state *state, uint32_t from)
{
    struct told *place = t->told_count < HA_NODES_MAX ? &t->told[t->told_count] : NULL;

    for (uint32_t i = 0; i < t->told_count; i++) {
        if (t->told[i].node == from)
            return &t->told[i];
        if (!ha_state_node(state, t->told[i].node))
            place = &t->told[i];
    }
    if (place && place == &t->told[t->told_count])
        t->told_count++;
    return place;
}

void things_told(struct hamgrd *d, uint32_t from, const struct peer_things *things)
{
    struct shell_things *t = things_of(d); /* a witness that leads plans with it, too */
    struct told *told = told_of(t, &d->state, from);

    if (!told)
        return;
    told->node = from;
    told->things = *things;
    t->is_news = true;
    shell_wake(d);
}

static uint32_t gather_nodes(struct hamgrd *d)
{
    struct shell_things *t = d->things;
    uint32_t count = 0;

    for (uint32_t i = 0; i < t->told_count; i++) {
        const struct peer_things *told = &t->told[i].things;
        const struct ha_node *node = ha_state_node(&d->state, t->told[i].node);
        if (!node || node->is_witness)
            continue;
        struct ha_bars_node *to = &t->nodes[count++];
        *to = (struct ha_bars_node){.node = node->id,
                                    .is_paging_known = told->is_paging_known,
                                    .has_shadow = told->has_shadow,
                                    .has_hap = told->has_hap,
                                    .cpu = told->cpu,
                                    .found_count = told->count,
                                    .found = told->found};
        memcpy(to->name, node->name, sizeof(to->name));
    }
    return count;
}

static const char *never_quiet(const struct note *note)
{
    return note && note->is_never_quiet ? "a disk is a file, emulated or behind a script" : NULL;
}

static void gather_guests(struct hamgrd *d)
{
    struct shell_things *t = d->things;

    for (uint32_t i = 0; i < d->state.guest_count; i++) {
        const struct ha_guest *guest = &d->state.guests[i];
        const struct note *note = note_of(t, guest->definition);
        uint32_t contract_ms = guest->policy.max_downtime_ms ? guest->policy.max_downtime_ms
                                                             : d->limits.max_downtime_ms;
        uint32_t owner = guest->phase == HA_PHASE_FREE ? 0 : guest->node;
        bool is_guess;
        uint32_t pause_ms = forecast_still_ms(d, guest->mem_kib, &is_guess);
        t->guests[i] = (struct ha_bars_guest){.id = guest->id,
                                              .kind = note ? note->kind : HA_KIND_UNKNOWN,
                                              .owner = owner,
                                              .home = owner ? owner : guest->last_node,
                                              .pause_ms = pause_ms,
                                              .is_pause_guess = is_guess,
                                              .contract_ms = contract_ms,
                                              .never_quiet = never_quiet(note),
                                              .thing_count = note ? note->thing_count : 0,
                                              .things = note ? note->things : NULL};
    }
}

/* At most once a tick: each is guests x things x nodes. */
static void make_bars(struct hamgrd *d)
{
    struct shell_things *t = d->things;

    if (!t->is_news && t->bars_applied == d->state.applied)
        return;
    t->is_news = false;
    t->bars_applied = d->state.applied;
    uint32_t nodes = gather_nodes(d);
    gather_guests(d);
    d->rt.bars = t->bars;
    d->rt.bar_count =
        ha_bars_make(t->nodes, nodes, t->guests, d->state.guest_count, t->bars, BARS_MAX);
}

/* hamgr-hv went: nobody will answer. */
static void drop_look(struct shell_things *t)
{
    if (t->look_fd >= 0)
        close(t->look_fd);
    t->look_fd = -1;
    t->look_request = 0;
}

void things_tick(struct hamgrd *d)
{
    struct shell_things *t = is_used(d) ? things_of(d) : d->things;

    if (!t)
        return;
    if (!d->is_hv_welcomed)
        drop_look(t);
    note_definitions(d);
    if (is_used(d) && !t->look_request && shell_now_ms() >= t->look_next_ms)
        begin_batch(d);
    make_bars(d);
}

void things_newcomer(struct hamgrd *d)
{
    const struct shell_things *t = d->things;

    if (t && t->own.is_paging_known && !t->look_request && t->look_first == 0)
        peers_send(d, PEER_THINGS, 0, put_things, &t->own);
}

/* ---- for others --------------------------------------------------------------------------------
 */

bool things_can_move_live(const struct hamgrd *d, const struct ha_guest *guest)
{
    const struct shell_things *t = d->things;
    const struct note *note = t ? note_of(t, guest->definition) : NULL;

    if (!note || note->kind == HA_KIND_UNKNOWN || !t->own.is_paging_known)
        return true;
    return !xen_live_refusal(note->kind, t->own.has_shadow, t->own.has_hap);
}

bool things_stands_still(const struct hamgrd *d, const struct ha_guest *guest, uint32_t node)
{
    const struct shell_things *t = d->things;
    const struct note *note = t ? note_of(t, guest->definition) : NULL;
    uint32_t i = 0;

    if (!note || note->kind == HA_KIND_UNKNOWN)
        return false;
    while (i < t->told_count && t->told[i].node != node)
        i++;
    return i < t->told_count && t->told[i].things.is_paging_known &&
           xen_live_refusal(note->kind, t->told[i].things.has_shadow, t->told[i].things.has_hap);
}

uint32_t things_guests(struct hamgrd *d, const struct ha_doctor_guest **ret_guests)
{
    struct shell_things *t = d->things;

    *ret_guests = NULL;
    if (!t)
        return 0;
    for (uint32_t i = 0; i < d->state.guest_count; i++) {
        const struct note *note = note_of(t, d->state.guests[i].definition);
        t->quiet[i] =
            (struct ha_doctor_guest){.name = d->state.guests[i].name,
                                     .kind = note ? note->kind : HA_KIND_UNKNOWN,
                                     .never_quiet = never_quiet(note),
                                     .elevator = note && note->elevator[0] ? note->elevator : NULL};
    }
    *ret_guests = t->quiet;
    return d->state.guest_count;
}

/* So that doctor tells schedulers and places of the guests' disks as well. */
void things_ask(const struct hamgrd *d, struct look_ask *ask)
{
    const struct shell_things *t = d->things;

    for (uint32_t i = 0; t && i < t->thing_count && ask->thing_count < LOOK_THINGS_MAX; i++) {
        if (t->things[i]->kind == LOOK_DISK)
            ask->things[ask->thing_count++] = *t->things[i];
    }
}
