/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: what comes back from a damaged disk. The input changes bytes of a store's database;
 * whatever is still read from it is what was written: damage is told, never taken for contents.
 * (What SQLite itself may have lost at the end of the log is told by peers' memory.)
 */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hamgr/store/db.h"

#define ENTRIES 6u
#define SNAP    2u /* the snapshot's index */

static struct log_entry entries[ENTRIES + 1];
static const char bodies[ENTRIES + 1][8] = {"", "one", "two", "three", "four", "five", "six"};
static const char snapshot[] = "a snapshot's bytes", definition[] = "memory_mib = 8\n";
static const char history[] = "{\"text\":\"started\"}";
static struct store_identity identity = {.generation = 3, .node = 2};
static char dir[] = "/dev/shm/hamgr-fuzz-XXXXXX";
static char path[64];
static uint8_t *image;
static size_t image_size;

static void make_entries(void)
{
    struct ha_digest previous = {0};

    for (uint32_t i = 1; i <= ENTRIES; i++) {
        entries[i] = (struct log_entry){.index = i,
                                        .view = {4, 1},
                                        .kind = LOG_KIND_STATE,
                                        .body = (const uint8_t *)bodies[i],
                                        .body_size = (uint32_t)strlen(bodies[i])};
        previous = entries[i].digest = log_entry_digest(previous, &entries[i]);
    }
}

static struct ha_digest definition_digest(void)
{
    return ha_digest_bytes((struct ha_digest){0}, definition, sizeof(definition));
}

static void fill(struct db *db)
{
    static const struct log_loaded voters = {.voter_count = 1, .voters = {{.node = 2}}};
    const struct db_snapshot s = {.index = SNAP,
                                  .digest = entries[SNAP].digest,
                                  .view = {4, 1},
                                  .voters = &voters,
                                  .data = (const uint8_t *)snapshot,
                                  .size = sizeof(snapshot)};

    REQUIRE(db_begin(db, NULL) == 0);
    db->promised = (struct log_view){9, 2};
    db->log_view = (struct log_view){8, 1};
    REQUIRE(db_put_promise(db, NULL) == 0 && db_put_snapshot(db, &s, NULL) == 0);
    REQUIRE(db_put_definition(db, definition_digest(), (const uint8_t *)definition,
                              sizeof(definition), NULL) == 0);
    REQUIRE(db_put_history(db, 3, 1700000000000, history, NULL) == 0);
    REQUIRE(db_commit(db, NULL) == 0 && db_checkpoint(db, true, NULL) == 0);
}

static void remove_files(void)
{
    static const char *const ends[] = {"", "-wal", "-shm", "-journal"};
    char name[80];

    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        snprintf(name, sizeof(name), "%s%s", path, ends[i]);
        (void)unlink(name);
    }
}

static void clean_up(void)
{
    remove_files();
    (void)rmdir(dir);
}

/* The undamaged database as bytes: made once, with the product's own means. */
static void make_image(void)
{
    struct db db;
    struct stat status;
    struct ha_err err = {0};

    REQUIRE(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/db", dir);
    (void)atexit(clean_up);
    make_entries();
    memset(identity.cluster_id.b, 0xc1, 16);
    REQUIRE(db_create(path, &identity, &entries[1], ENTRIES, &err) == 0);
    REQUIRE(db_open(path, &db, &err) == 0);
    fill(&db);
    db_close(&db);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0 && fstat(fd, &status) == 0);
    image_size = (size_t)status.st_size;
    image = malloc(image_size);
    REQUIRE(image && read(fd, image, image_size) == (ssize_t)image_size);
    close(fd);
}

static int check_entry(void *user, const struct log_entry *entry)
{
    uint64_t *next = user;

    REQUIRE(entry->index >= 1 && entry->index <= ENTRIES);
    REQUIRE(*next == 0 || entry->index == *next);
    *next = entry->index + 1;
    const struct log_entry *written = &entries[entry->index];
    REQUIRE(ha_digest_equal(entry->digest, written->digest));
    REQUIRE(entry->body_size == written->body_size);
    REQUIRE(memcmp(entry->body, written->body, written->body_size) == 0);
    return 0;
}

static int check_definition(void *user, struct ha_digest digest, const uint8_t *data, size_t size)
{
    (void)user;
    REQUIRE(ha_digest_equal(digest, definition_digest()));
    REQUIRE(size == sizeof(definition) && memcmp(data, definition, size) == 0);
    return 0;
}

static int check_history(void *user, uint64_t index, uint64_t wall_ms, const char *json)
{
    (void)user;
    (void)index;
    (void)wall_ms;
    REQUIRE(json != NULL && strlen(json) < 65536); /* text for people: anything, but bounded */
    return 0;
}

/* True if rc is success; a failure has words. */
static bool went_well(int rc, const struct ha_err *err)
{
    REQUIRE(rc >= 0 || err->text[0] != '\0');
    return rc >= 0;
}

static void read_back(struct db *db)
{
    struct store_identity found;
    struct log_loaded loaded;
    struct ha_err err = {0};
    uint8_t *data = NULL;
    size_t size = 0;
    uint64_t next = 0;

    if (!went_well(db_check(db, &err), &err))
        return; /* store_open goes no further either */
    if (went_well(db_identity(db, &found, &err), &err)) {
        REQUIRE(ha_uuid_equal(found.cluster_id, identity.cluster_id));
        REQUIRE(found.generation == identity.generation && found.node == identity.node);
    }
    if (!went_well(db_load(db, &loaded, &err), &err))
        return;
    REQUIRE(loaded.promised.counter == 9 && loaded.log_view.counter == 8);
    REQUIRE(loaded.base_index == 0 || (loaded.base_index == SNAP && loaded.voter_count == 1));
    if (went_well(db_snapshot(db, &data, &size, &err), &err) && data)
        REQUIRE(size == sizeof(snapshot) && memcmp(data, snapshot, size) == 0);
    free(data);
    /* Older ones are kept for peers that lag, and only those from the second on can be proven. */
    (void)went_well(db_each_entry(db, loaded.base_index, check_entry, &next, &err), &err);
    (void)went_well(db_each_definition(db, check_definition, NULL, &err), &err);
    (void)went_well(db_each_history(db, check_history, NULL, &err), &err);
}

static void write_damaged(struct fuzz_input *in)
{
    uint8_t *copy = fuzz_copy(image, image_size);
    size_t size = image_size;

    if (fuzz_u8(in) % 8u == 0) /* torn: the end never reached the disk */
        size = (size_t)fuzz_u16(in) * 64u % image_size;
    while (in->size > 0) {
        size_t at = ((size_t)fuzz_u8(in) << 16 | fuzz_u16(in)) % image_size;
        copy[at] = fuzz_u8(in);
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0 && write(fd, copy, size) == (ssize_t)size);
    close(fd);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct ha_err err = {0};
    struct db db;

    if (!image)
        make_image();
    remove_files();
    write_damaged(&in);
    if (went_well(db_open(path, &db, &err), &err)) {
        read_back(&db);
        db_close(&db);
    }
    return 0;
}
