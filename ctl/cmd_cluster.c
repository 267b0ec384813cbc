/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands that make and change the cluster: init and join work offline on the node's own files,
 * add-node and remove-node go through the log.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "ctl/cluster_setup.h"
#include "ctl/hactl.h"
#include "hamgr/base/err.h"
#include "hamgr/config/config.h"
#include "hamgr/core/entry.h"
#include "hamgr/store/store.h"

struct setup_words {
    const char *cluster_name;
    const char *cluster_id;
    char node_name[HA_NAME_MAX];
    char addr[HA_ADDR_MAX];
    char state_dir[128];
    uint64_t id;
    uint64_t generation;
    uint64_t token_ms;
    bool is_witness;
};

static int parse_setup(const struct command *command, int argc, char **argv, struct setup_words *w)
{
    static const struct option options[] = {
        {"name", required_argument, NULL, 'n'},       {"cluster-id", required_argument, NULL, 'c'},
        {"generation", required_argument, NULL, 'g'}, {"node-name", required_argument, NULL, 'N'},
        {"addr", required_argument, NULL, 'a'},       {"id", required_argument, NULL, 'i'},
        {"token", required_argument, NULL, 't'},      {"state", required_argument, NULL, 's'},
        {"witness", no_argument, NULL, 'w'},          {NULL, 0, NULL, 0}};
    int option;

    opterr = 0;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        bool is_good = true;
        if (option == 'n')
            w->cluster_name = optarg;
        else if (option == 'c')
            w->cluster_id = optarg;
        else if (option == 'N')
            is_good = snprintf(w->node_name, HA_NAME_MAX, "%s", optarg) < (int)HA_NAME_MAX;
        else if (option == 'a')
            is_good = snprintf(w->addr, HA_ADDR_MAX, "%s", optarg) < (int)HA_ADDR_MAX;
        else if (option == 's')
            is_good = snprintf(w->state_dir, sizeof(w->state_dir), "%s", optarg) <
                      (int)sizeof(w->state_dir);
        else if (option == 'i')
            is_good = parse_number(optarg, UINT32_MAX, &w->id) && w->id > 0;
        else if (option == 'g')
            is_good = parse_number(optarg, INT64_MAX, &w->generation) && w->generation > 0;
        else if (option == 't')
            is_good = parse_ms(optarg, 60000, &w->token_ms) && w->token_ms >= 100;
        else if (option == 'w')
            w->is_witness = true;
        else
            is_good = false;
        if (!is_good)
            return usage_error(command, "\"%s\" is not an option, or its value is out of range",
                               argv[optind - 1]);
    }
    return optind == argc ? EXIT_DONE
                          : usage_error(command, "\"%s\" is not expected", argv[optind]);
}

static int load_defaults(struct setup_words *w)
{
    struct ha_config config;
    struct ha_err err = {0};

    memset(w, 0, sizeof(*w));
    if (ha_config_load(HA_CONFIG_PATH, &config, &err) < 0)
        return fail_locally(EXIT_USAGE, "usage", err.text, "");
    snprintf(w->node_name, sizeof(w->node_name), "%s", config.name);
    snprintf(w->state_dir, sizeof(w->state_dir), "%s", config.state_dir);
    w->is_witness = config.is_witness;
    w->id = 1;
    w->generation = 1;
    w->token_ms = 1000;
    return EXIT_DONE;
}

/* The store belongs to the user that hamgrd runs as. */
static int give_to_daemon(const char *path, struct ha_err *err)
{
    const struct passwd *user = geteuid() == 0 ? getpwnam("hamgr") : NULL;

    return user ? store_give(path, user->pw_uid, user->pw_gid, err) : 0;
}

static struct ha_uuid random_id(void)
{
    struct ha_uuid id;

    if (getrandom(id.b, sizeof(id.b), 0) != (ssize_t)sizeof(id.b))
        abort();
    return id;
}

static int tell_made(const struct setup_words *w, const struct store_identity *identity,
                     const char *next)
{
    char id[HA_UUID_TEXT];

    ha_uuid_format(identity->cluster_id, id);
    if (is_json) {
        print_document(NULL,
                       json_pack("{s:s, s:I, s:I, s:s, s:s}", "cluster_id", id, "generation",
                                 (json_int_t)identity->generation, "node_id",
                                 (json_int_t)identity->node, "node", w->node_name, "state",
                                 w->state_dir),
                       NULL);
    } else {
        printf("Cluster id %s, generation %" PRIu64 "; this node is %s (%u).\n%s\n", id,
               identity->generation, w->node_name, identity->node, next);
    }
    return EXIT_DONE;
}

static int local_failure(const struct ha_err *err)
{
    return fail_locally(EXIT_REFUSED, ha_err_name(err->code), err->text,
                        err->code == HA_E_EXISTS
                            ? "this node has a store already: move it away only if you know that "
                              "the cluster lives on without it"
                            : "");
}

/* ---- init --------------------------------------------------------------------------------------
 */

#define NEXT_OF_INIT                                                                               \
    "Restart corosync and start hamgrd, then hactl cluster add-node for each further node."
/* Debian's package brings one, of a cluster without encryption. */
#define KEPT_CONF                                                                                  \
    "There is a " CLUSTER_SETUP_ETC "/corosync.conf already, which stays as it is. It must name "  \
    "this\nnode and its address, and encrypt; if your distribution brought it, put\n"              \
    "deploy/examples/corosync.conf in its place.\n"

static int run_init(const struct command *command, int argc, char **argv)
{
    static uint8_t body[4096];
    struct setup_words w;
    struct ha_err err = {0};
    struct ha_cmd cmd = {.type = HA_CMD_INIT, .actor = "hactl cluster init"};

    int code = load_defaults(&w);
    if (code == EXIT_DONE)
        code = parse_setup(command, argc, argv, &w);
    if (code != EXIT_DONE)
        return code;
    if (!w.cluster_name || !ha_name_is_valid(w.cluster_name) || !ha_name_is_valid(w.node_name) ||
        !w.addr[0])
        return usage_error(command, "--name CLUSTER and --addr IP are needed, and names of "
                                    "letters, digits, . _ -");
    bool had_conf = access(CLUSTER_SETUP_ETC "/corosync.conf", F_OK) == 0;
    if (cluster_setup_corosync(w.cluster_name, (uint32_t)w.id, w.node_name, w.addr,
                               (uint32_t)w.token_ms, &err) < 0)
        return local_failure(&err);
    struct store_identity identity = {.cluster_id = random_id(),
                                      .generation = w.generation,
                                      .store_id = random_id(),
                                      .node = (uint32_t)w.id};
    cmd.node = identity.node;
    cmd.u.init.cluster_id = identity.cluster_id;
    cmd.u.init.generation = identity.generation;
    cmd.u.init.store_id = identity.store_id;
    cmd.u.init.is_witness = w.is_witness;
    snprintf(cmd.u.init.name, sizeof(cmd.u.init.name), "%s", w.cluster_name);
    snprintf(cmd.u.init.node_name, sizeof(cmd.u.init.node_name), "%s", w.node_name);
    snprintf(cmd.u.init.addr, sizeof(cmd.u.init.addr), "%s", w.addr);
    struct ha_writer writer = ha_writer_of(body, sizeof(body));
    ha_cmd_encode(&writer, &cmd);
    if (cluster_setup_first_store(w.state_dir, &identity, body, writer.position, &err) < 0)
        return local_failure(&err);
    if (give_to_daemon(w.state_dir, &err) < 0)
        return local_failure(&err);
    return tell_made(&w, &identity, had_conf ? KEPT_CONF NEXT_OF_INIT : NEXT_OF_INIT);
}

/* ---- join --------------------------------------------------------------------------------------
 */

static int run_join(const struct command *command, int argc, char **argv)
{
    struct setup_words w;
    struct ha_err err = {0};
    struct store_identity identity = {0};

    int code = load_defaults(&w);
    w.id = 0;
    if (code == EXIT_DONE)
        code = parse_setup(command, argc, argv, &w);
    if (code != EXIT_DONE)
        return code;
    if (!w.cluster_id || ha_uuid_parse(w.cluster_id, &identity.cluster_id) < 0 || w.id == 0)
        return usage_error(command, "--cluster-id UUID and --id N are needed, as hactl cluster "
                                    "add-node printed them");
    identity.generation = w.generation;
    identity.store_id = random_id();
    identity.node = (uint32_t)w.id;
    if (cluster_setup_right(CLUSTER_SETUP_ETC, &err) < 0 ||
        store_create(w.state_dir, &identity, &err) < 0)
        return local_failure(&err);
    if (give_to_daemon(w.state_dir, &err) < 0)
        return local_failure(&err);
    return tell_made(
        &w, &identity,
        "Restart corosync and start hamgrd: it copies the state and becomes a voter by itself.");
}

/* ---- add, remove
 * --------------------------------------------------------------------------------- */

static void print_next_steps(const char *name, const struct setup_words *w)
{
    json_t *envelope, *data;

    if (is_json || ask_data("status", json_object(), &envelope, &data) != EXIT_DONE)
        return;
    printf("%s may join. On it:\n"
           "  1. copy /etc/corosync/corosync.conf (with the new node in its nodelist) and\n"
           "     /etc/corosync/authkey from here, and its certificate from deploy/pki\n"
           "  2. hactl cluster join --cluster-id %s --generation %" PRIu64 " --id %" PRIu64 "\n"
           "  3. restart corosync, start hamgrd and the other daemons\n",
           name, text_of(data, "cluster_id"), number_of(envelope, "generation"), w->id);
    json_decref(envelope);
}

static int run_add(const struct command *command, int argc, char **argv)
{
    struct setup_words w;

    int code = load_defaults(&w);
    w.id = 0;
    w.is_witness = false;
    if (argc < 2 || argv[1][0] == '-')
        return usage_error(command, "the new node's name is expected first");
    const char *name = argv[1];
    if (code == EXIT_DONE)
        code = parse_setup(command, argc - 1, argv + 1, &w);
    if (code != EXIT_DONE)
        return code;
    if (!w.addr[0] || w.id == 0)
        return usage_error(command, "--addr IP and --id N are needed");
    code = ask_and_tell("cluster-add-node",
                        json_pack("{s:s, s:s, s:I, s:b}", "node", name, "address", w.addr, "id",
                                  (json_int_t)w.id, "witness", w.is_witness ? 1 : 0),
                        NULL);
    if (code == EXIT_DONE)
        print_next_steps(name, &w);
    return code;
}

static int run_remove(const struct command *command, int argc, char **argv)
{
    if (argc != 2)
        return usage_error(command, "one node is expected");
    return ask_and_tell("cluster-remove-node", json_pack("{s:s}", "node", argv[1]),
                        "removed; take it out of corosync.conf on the others as well");
}

const struct command cluster_commands[] = {
    {"cluster init", "Make a new cluster with this node as its first",
     "--name CLUSTER --addr IP [--node-name NAME] [--id N] [--token TIME] [--witness] "
     "[--state DIR]",
     "Makes corosync.conf and its key if there are none, and this node's store.\n\n"
     "Example: hactl cluster init --name east --addr 10.0.0.1\n",
     run_init},
    {"cluster join", "Make this node's store for a cluster that knows it",
     "--cluster-id UUID --id N [--generation N] [--state DIR]",
     "hactl cluster add-node prints the exact command.\n", run_join},
    {"cluster add-node", "Let a node join", "NAME --addr IP --id N [--witness]",
     "Example: hactl cluster add-node n3 --addr 10.0.0.3 --id 3\n", run_add},
    {"cluster remove-node", "Forget a node that has left or is off", "NAME", "", run_remove},
    {NULL, NULL, NULL, NULL, NULL},
};
