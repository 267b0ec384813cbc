/* SPDX-License-Identifier: Apache-2.0
 *
 * What `hactl cluster init` leaves behind: corosync's files (in a mount namespace of the test's
 * own) and the first store. With --conf TOKEN it prints a corosync.conf, for a test that starts
 * corosync.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "ctl/cluster_setup.h"
#include "hamgr/core/entry.h"

static const struct cluster_setup_node nodes[] = {
    {1, "n1", "10.77.0.1"}, {2, "n2", "10.77.0.2"}, {3, "n3", "10.77.0.3"}};

static struct cluster_setup setup_of(uint32_t token_ms)
{
    return (struct cluster_setup){
        .cluster_name = "lab", .token_ms = token_ms, .node_count = 3, .nodes = nodes};
}

static void conf_says_what_was_asked(void **state)
{
    static const char *const lines[] = {"cluster_name: lab\n",
                                        "transport: knet\n",
                                        "token: 1000\n",
                                        "token_coefficient: 0\n",
                                        "crypto_cipher: aes256\n",
                                        "crypto_hash: sha256\n",
                                        "ring0_addr: 10.77.0.3\n",
                                        "name: n2\n",
                                        "nodeid: 1\n",
                                        "provider: corosync_votequorum\n"};
    struct cluster_setup setup = setup_of(1000);
    char text[CLUSTER_SETUP_CONF_SIZE];
    struct ha_err err = {0};

    (void)state;
    assert_int_equal(cluster_setup_conf(&setup, text, sizeof(text), &err), 0);
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        assert_non_null(strstr(text, lines[i]));
    assert_null(strstr(text, "consensus:"));
    assert_non_null(strstr(text, "knet_ping_timeout: 4000\n"));
    setup.consensus_ms = 1500;
    assert_int_equal(cluster_setup_conf(&setup, text, sizeof(text), &err), 0);
    assert_non_null(strstr(text, "consensus: 1500\n"));
    assert_int_equal(cluster_setup_conf(&setup, text, 300, &err), -HA_E_LIMIT);
}

static void a_short_token_has_the_same_ping_times(void **state)
{
    struct cluster_setup setup = setup_of(300);
    char text[CLUSTER_SETUP_CONF_SIZE];
    struct ha_err err = {0};

    (void)state;
    assert_int_equal(cluster_setup_conf(&setup, text, sizeof(text), &err), 0);
    assert_non_null(strstr(text, "knet_ping_timeout: 4000\n"));
}

static void assert_wrong(struct cluster_setup setup, const char *words)
{
    char text[CLUSTER_SETUP_CONF_SIZE];
    struct ha_err err = {0};

    assert_int_equal(cluster_setup_conf(&setup, text, sizeof(text), &err), -HA_E_USAGE);
    assert_non_null(strstr(err.text, words));
}

static void assert_wrong_node(struct cluster_setup_node node, const char *words)
{
    struct cluster_setup_node list[2] = {nodes[0], node};
    struct cluster_setup setup = setup_of(1000);

    setup.nodes = list;
    setup.node_count = 2;
    assert_wrong(setup, words);
}

static void nonsense_is_refused(void **state)
{
    struct cluster_setup setup = setup_of(1000);

    (void)state;
    setup.cluster_name = "a b";
    assert_wrong(setup, "a b");
    setup = setup_of(50);
    assert_wrong(setup, "token");
    setup = setup_of(1000);
    setup.consensus_ms = 1199;
    assert_wrong(setup, "1200");
    setup.consensus_ms = 0;
    setup.node_count = 0;
    assert_wrong(setup, "nodes");
    assert_wrong_node((struct cluster_setup_node){0, "n2", "10.0.0.2"}, "ids");
    assert_wrong_node((struct cluster_setup_node){2, "n2\n}", "10.0.0.2"}, "name");
    assert_wrong_node((struct cluster_setup_node){2, "n2", "host.example"}, "IP address");
    assert_wrong_node((struct cluster_setup_node){2, "n2", "fe80::1"}, "mixed");
    assert_wrong_node((struct cluster_setup_node){1, "n2", "10.0.0.2"}, "share");
    assert_wrong_node((struct cluster_setup_node){2, "n1", "10.0.0.2"}, "share");
    assert_wrong_node((struct cluster_setup_node){2, "n2", "10.77.0.1"}, "share");
}

static char *make_dir(void)
{
    char *dir = strdup("/tmp/setup-test-XXXXXX");

    assert_non_null(mkdtemp(dir));
    return dir;
}

static const char *in(const char *dir, const char *name)
{
    static char path[4096];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

static size_t read_file(const char *path, char *ret_data, size_t capacity)
{
    FILE *file = fopen(path, "r");

    assert_non_null(file);
    size_t size = fread(ret_data, 1, capacity, file);
    fclose(file);
    return size;
}

static mode_t mode_of(const char *path)
{
    struct stat status;

    assert_int_equal(stat(path, &status), 0);
    return status.st_mode & 07777;
}

static void remove_setup(char *dir)
{
    const char *const names[] = {"corosync.conf", "authkey", "uidgid.d/hamgr"};

    for (size_t i = 0; i < 3; i++)
        (void)unlink(in(dir, names[i]));
    (void)rmdir(in(dir, "uidgid.d"));
    assert_int_equal(rmdir(dir), 0); /* nothing else was left behind */
    free(dir);
}

static void files_are_made_once(void **state)
{
    char *dir = make_dir();
    struct cluster_setup setup = setup_of(1000);
    char key[1000];
    char again[1000];
    char text[4096] = "";
    struct ha_err err = {0};

    (void)state;
    assert_int_equal(cluster_setup_files(dir, &setup, &err), 0);
    assert_int_equal(mode_of(in(dir, "authkey")), 0400);
    assert_int_equal(mode_of(in(dir, "corosync.conf")), 0644);
    assert_int_equal(read_file(in(dir, "authkey"), key, sizeof(key)), 256);
    read_file(in(dir, "uidgid.d/hamgr"), text, sizeof(text) - 1);
    assert_non_null(strstr(text, "uid: hamgr\n"));
    /* A second time, for another cluster: everything stays. */
    setup.cluster_name = "other";
    assert_int_equal(cluster_setup_files(dir, &setup, &err), 0);
    assert_int_equal(read_file(in(dir, "authkey"), again, sizeof(again)), 256);
    assert_memory_equal(key, again, 256);
    memset(text, 0, sizeof(text));
    read_file(in(dir, "corosync.conf"), text, sizeof(text) - 1);
    assert_non_null(strstr(text, "cluster_name: lab"));
    /* Another key each time one is made. */
    assert_int_equal(unlink(in(dir, "authkey")), 0);
    assert_int_equal(cluster_setup_files(dir, &setup, &err), 0);
    assert_int_equal(read_file(in(dir, "authkey"), again, sizeof(again)), 256);
    assert_memory_not_equal(key, again, 256);
    remove_setup(dir);
}

/* A node that joins is given all else by others. */
static void a_right_is_made_alone(void **state)
{
    char *dir = make_dir();
    char text[4096] = "";
    struct ha_err err = {0};

    (void)state;
    assert_int_equal(cluster_setup_right(dir, &err), 0);
    assert_int_equal(cluster_setup_right(dir, &err), 0);
    read_file(in(dir, "uidgid.d/hamgr"), text, sizeof(text) - 1);
    assert_string_equal(text, "uidgid {\n  uid: hamgr\n}\n");
    assert_int_equal(access(in(dir, "authkey"), F_OK), -1);
    remove_setup(dir);
}

struct found {
    unsigned count;
    struct ha_digest digest;
    struct ha_cmd init;
    struct log_voter_change vote;
};

static int take(void *user, const struct log_entry *entry)
{
    struct found *found = user;

    found->count++;
    assert_int_equal(entry->index, found->count);
    assert_int_equal(entry->view.counter, 0);
    assert_true(ha_digest_equal(entry->digest, log_entry_digest(found->digest, entry)));
    found->digest = entry->digest;
    if (entry->kind == LOG_KIND_INIT)
        assert_int_equal(ha_cmd_decode(entry->body, entry->body_size, &found->init), 0);
    if (entry->kind == LOG_KIND_VOTER)
        assert_int_equal(log_voter_change_decode(entry->body, entry->body_size, &found->vote), 0);
    return 0;
}

static void a_first_store_holds_init_and_its_voter(void **state)
{
    char *dir = make_dir();
    struct store_identity identity = {.generation = 1, .node = 7};
    struct store_identity opened;
    struct ha_cmd cmd = {.type = HA_CMD_INIT, .node = 7, .actor = "test"};
    uint8_t body[4096];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct found found = {0};
    struct store *store = NULL;
    struct ha_err err = {0};

    (void)state;
    memset(identity.store_id.b, 0x5e, 16);
    memset(identity.cluster_id.b, 0xc1, 16);
    cmd.u.init.cluster_id = identity.cluster_id;
    cmd.u.init.generation = 1;
    cmd.u.init.store_id = identity.store_id;
    memcpy(cmd.u.init.name, "east", 5);
    memcpy(cmd.u.init.node_name, "n7", 3);
    memcpy(cmd.u.init.addr, "10.0.0.7", 9);
    ha_cmd_encode(&w, &cmd);
    assert_false(w.failed);
    char store_dir[4200];
    snprintf(store_dir, sizeof(store_dir), "%s/s", dir);
    assert_int_equal(cluster_setup_first_store(store_dir, &identity, body, w.position, &err), 0);
    assert_int_equal(cluster_setup_first_store(store_dir, &identity, body, w.position, &err),
                     -HA_E_EXISTS);
    assert_int_equal(store_open(store_dir, &store, &opened, &err), 0);
    assert_int_equal(store_each_entry(store, take, &found, &err), 0);
    assert_int_equal(found.count, 2);
    assert_string_equal(found.init.u.init.name, "east");
    assert_true(found.vote.is_added);
    assert_int_equal(found.vote.node, 7);
    assert_memory_equal(found.vote.store_id.b, identity.store_id.b, 16);
    store_close(store, 1000);
    const char *const names[] = {"s/hamgr.db", "s/hamgr.db-wal", "s/lock"};
    for (size_t i = 0; i < 3; i++)
        (void)unlink(in(dir, names[i]));
    assert_int_equal(rmdir(store_dir), 0);
    assert_int_equal(rmdir(dir), 0);
    free(dir);
}

static int print_conf(const char *token)
{
    struct cluster_setup setup = setup_of((uint32_t)strtoul(token, NULL, 10));
    char text[CLUSTER_SETUP_CONF_SIZE];
    struct ha_err err = {0};

    if (cluster_setup_conf(&setup, text, sizeof(text), &err) < 0)
        return 1;
    printf("%s", text);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conf_says_what_was_asked),
        cmocka_unit_test(a_short_token_has_the_same_ping_times),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(a_first_store_holds_init_and_its_voter),
        cmocka_unit_test(files_are_made_once),
        cmocka_unit_test(a_right_is_made_alone),
    };

    if (argc == 3 && strcmp(argv[1], "--conf") == 0)
        return print_conf(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
