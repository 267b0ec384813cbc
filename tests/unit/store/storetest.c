/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/store/storetest.h"

#include <dirent.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct chain *chain_make(uint32_t count, struct log_view view, uint32_t body_size, uint8_t filler)
{
    struct chain *chain = calloc(1, sizeof(*chain));
    struct ha_digest previous = {0};

    assert_non_null(chain);
    assert_true(count <= CHAIN_MAX && body_size <= HA_ENTRY_MAX);
    memset(chain->body, filler, sizeof(chain->body));
    for (uint32_t i = 1; i <= count; i++) {
        struct log_entry *entry = &chain->entries[i];
        *entry = (struct log_entry){.index = i,
                                    .view = view,
                                    .kind = LOG_KIND_STATE,
                                    .origin = 1,
                                    .nonce = 77,
                                    .seq = i,
                                    .body = chain->body,
                                    .body_size = body_size};
        entry->digest = log_entry_digest(previous, entry);
        previous = entry->digest;
    }
    return chain;
}

char *dir_make(void)
{
    const char *base = getenv("TMPDIR");
    char *dir = malloc(PATH_MAX);

    snprintf(dir, PATH_MAX, "%s/store-test-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(dir));
    return dir;
}

const char *dir_store(const char *dir)
{
    static char path[PATH_MAX + 4];

    snprintf(path, sizeof(path), "%s/s", dir);
    return path;
}

static void remove_files(const char *path)
{
    DIR *files = opendir(path);
    struct dirent *file;

    while (files && (file = readdir(files)) != NULL) {
        char name[PATH_MAX + 300];
        snprintf(name, sizeof(name), "%s/%s", path, file->d_name);
        (void)unlink(name); /* fails for . and .. */
    }
    if (files)
        closedir(files);
}

void dir_remove(char *dir)
{
    remove_files(dir_store(dir));
    (void)rmdir(dir_store(dir));
    (void)rmdir(dir);
    free(dir);
}

struct store_identity identity_make(void)
{
    struct store_identity identity = {.generation = 3, .node = 2};

    memset(identity.cluster_id.b, 0xc1, 16);
    memset(identity.store_id.b, 0x5e, 16);
    return identity;
}

struct store *store_again(const char *dir)
{
    struct store_identity identity;
    struct store *store = NULL;
    struct ha_err err = {0};
    int rc = store_open(dir_store(dir), &store, &identity, &err);

    if (rc < 0)
        fail_msg("open: %d %s", rc, err.text);
    return store;
}

struct store *store_fresh(const char *dir)
{
    struct store_identity identity = identity_make();
    struct ha_err err = {0};
    int rc = store_create(dir_store(dir), &identity, &err);

    if (rc < 0)
        fail_msg("create: %d %s", rc, err.text);
    return store_again(dir);
}

int queue_entries(struct store *store, uint64_t token, const struct chain *chain, uint64_t first,
                  uint64_t last)
{
    struct store_write write = {.token = token,
                                .entries = &chain->entries[first],
                                .entry_count = (uint32_t)(last - first + 1)};

    return store_write(store, &write);
}

struct store_done await_done(struct store *store)
{
    struct pollfd fd = {.fd = store_fd(store), .events = POLLIN};
    struct store_done done = {0};

    if (store_take(store, &done))
        return done;
    assert_int_equal(poll(&fd, 1, 20000), 1);
    assert_true(store_take(store, &done));
    return done;
}

bool write_entries(struct store *store, uint64_t token, const struct chain *chain, uint64_t first,
                   uint64_t last)
{
    assert_int_equal(queue_entries(store, token, chain, first, last), 0);
    struct store_done done = await_done(store);
    assert_int_equal(done.token, token);
    return done.is_ok;
}

struct walk {
    const struct chain *chain;
    uint64_t next;
};

static int check_entry(void *user, const struct log_entry *entry)
{
    struct walk *walk = user;
    const struct log_entry *wanted = &walk->chain->entries[walk->next];

    assert_int_equal(entry->index, walk->next);
    assert_true(ha_digest_equal(entry->digest, wanted->digest));
    assert_int_equal(entry->body_size, wanted->body_size);
    if (entry->body_size > 0)
        assert_memory_equal(entry->body, wanted->body, entry->body_size);
    walk->next++;
    return 0;
}

uint64_t check_entries(struct store *store, const struct chain *chain, uint64_t first)
{
    struct walk walk = {.chain = chain, .next = first};
    struct ha_err err = {0};

    if (store_each_entry(store, check_entry, &walk, &err) < 0)
        fail_msg("entries: %s", err.text);
    return walk.next - first;
}

uint64_t test_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

bool dir_has(const char *dir, const char *prefix)
{
    DIR *files = opendir(dir_store(dir));
    struct dirent *file;
    bool has = false;

    while (files && (file = readdir(files)) != NULL)
        has = has || strncmp(file->d_name, prefix, strlen(prefix)) == 0;
    if (files)
        closedir(files);
    return has;
}
