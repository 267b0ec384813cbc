/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands about nodes and the cluster's arming.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl/hactl.h"

#define DRAIN_MS 3600000u

static int need_node(const struct command *command, int argc, int wanted)
{
    return argc == wanted ? EXIT_DONE : usage_error(command, "%s", command->usage);
}

static int run_fence(const struct command *command, int argc, char **argv)
{
    char what[256], done[256];
    bool is_sure = argc == 3 && strcmp(argv[2], "--yes") == 0;

    if (argc != 2 && !is_sure)
        return usage_error(command, "one node is expected");
    snprintf(what, sizeof(what), "%.100s is switched off now; its guests start elsewhere.",
             argv[1]);
    if (!is_sure && !typed_name(what, argv[1]))
        return EXIT_REFUSED;
    snprintf(done, sizeof(done), "%.100s is to be fenced: hactl status and hactl events follow it",
             argv[1]);
    return ask_and_tell("fence", json_pack("{s:s}", "node", argv[1]), done);
}

static int run_confirm(const struct command *command, int argc, char **argv)
{
    char what[256];
    const char *typed = NULL;

    if (argc == 4 && strcmp(argv[2], "--i-have-looked") == 0)
        typed = argv[3];
    else if (argc != 2)
        return usage_error(command, "one node is expected");
    snprintf(what, sizeof(what),
             "You say that %.100s is off and stays off. If it still runs, its guests run twice.",
             argv[1]);
    if (!typed && typed_name(what, argv[1]))
        typed = argv[1];
    if (!typed)
        return EXIT_REFUSED;
    return ask_and_tell("confirm-fenced", json_pack("{s:s, s:s}", "node", argv[1], "typed", typed),
                        "confirmed: its guests are free to start elsewhere. If a new machine "
                        "under its name runs hamgrd already, restart that to take it in");
}

static int drain_and_tell(const char *node, json_t *request)
{
    json_t *envelope, *data;
    int code = ask_data("maintenance", request, &envelope, &data);

    if (code != EXIT_DONE)
        return code;
    json_t *index = json_incref(json_object_get(data, "index"));
    json_decref(envelope);
    code = wait_drained(node, DRAIN_MS, &envelope);
    if (code == EXIT_DONE && is_json)
        print_document(envelope, json_pack("{s:O, s:i}", "index", index, "guests", 0), NULL);
    else if (code == EXIT_DONE)
        printf("%s is empty\n", node);
    if (code == EXIT_DONE)
        json_decref(envelope);
    json_decref(index);
    return code;
}

static int run_maintenance(const struct command *command, int argc, char **argv)
{
    bool is_waiting = argc == 4 && strcmp(argv[3], "--wait") == 0;

    if ((argc != 3 && !is_waiting) || (strcmp(argv[2], "on") != 0 && strcmp(argv[2], "off") != 0))
        return usage_error(command, "NODE on or NODE off is expected");
    bool is_on = strcmp(argv[2], "on") == 0;
    json_t *request = json_pack("{s:s, s:b}", "node", argv[1], "on", is_on ? 1 : 0);
    if (is_on && is_waiting)
        return drain_and_tell(argv[1], request);
    return ask_and_tell("maintenance", request,
                        is_on ? "its guests move away; it keeps this over a reboot"
                              : "it may run guests again");
}

static int run_freeze(const struct command *command, int argc, char **argv)
{
    if (need_node(command, argc, 2) != EXIT_DONE)
        return EXIT_USAGE;
    return ask_and_tell("freeze", json_pack("{s:s}", "node", argv[1]),
                        "frozen: its guests run on unguarded; only a fence device or you can free "
                        "them");
}

static int run_unfreeze(const struct command *command, int argc, char **argv)
{
    if (need_node(command, argc, 2) != EXIT_DONE)
        return EXIT_USAGE;
    return ask_and_tell("unfreeze", json_pack("{s:s}", "node", argv[1]), "guarded again");
}

static int run_disarm(const struct command *command, int argc, char **argv)
{
    (void)argv;
    if (argc != 1)
        return usage_error(command, "no words are expected");
    return ask_and_tell("disarm", json_object(),
                        "disarmed: nobody is fenced, nothing is recovered until hactl arm");
}

static int run_arm(const struct command *command, int argc, char **argv)
{
    (void)argv;
    if (argc != 1)
        return usage_error(command, "no words are expected");
    return ask_and_tell("arm", json_object(), "armed");
}

/* The name of the node this command runs on, into name[128]. */
static int own_name(char *name)
{
    json_t *envelope, *data;
    int code = ask_data("status", json_object(), &envelope, &data);

    if (code != EXIT_DONE)
        return code;
    snprintf(name, 128, "%s", text_of(json_object_get(data, "here"), "node"));
    json_decref(envelope);
    return EXIT_DONE;
}

static int run_leave(const struct command *command, int argc, char **argv)
{
    char name[128];

    if (argc > 2)
        return usage_error(command, "at most one node is expected");
    int code = EXIT_DONE;
    if (argc == 2)
        snprintf(name, sizeof(name), "%s", argv[1]);
    else
        code = own_name(name);
    if (code != EXIT_DONE)
        return code;
    return ask_and_tell("leave", json_pack("{s:s}", "node", name),
                        "it has left: it may be switched off without anybody being fenced");
}

/* What the unit runs before hamgrd is stopped with the host. */
static int run_shutdown(const struct command *command, int argc, char **argv)
{
    uint64_t timeout_ms = 600000;
    json_t *envelope, *data;
    char name[128];

    if (argc == 3 && strcmp(argv[1], "--timeout") == 0) {
        if (!parse_ms(argv[2], 86400000, &timeout_ms))
            return usage_error(command, "--timeout takes a time like 300s");
    } else if (argc != 1) {
        return usage_error(command, "\"%s\" is not expected", argv[1]);
    }
    int code = own_name(name);
    if (code != EXIT_DONE)
        return code;
    code = ask_data("node-shutdown", json_object(), &envelope, &data);
    if (code != EXIT_DONE)
        return code;
    json_decref(envelope);
    code = wait_drained(name, timeout_ms, &envelope);
    if (code != EXIT_DONE)
        return code;
    json_decref(envelope);
    return ask_and_tell("leave", json_pack("{s:s}", "node", name), "it has left");
}

const struct command node_commands[] = {
    {"fence", "Switch a node off and verify it", "NODE [--yes]",
     "Asks for the name to be typed unless --yes.\n", run_fence},
    {"confirm-fenced", "Say that a lost node is off (you have looked)",
     "NODE [--i-have-looked NODE]",
     "The last resort when no fence device answers: recorded with your name.\n", run_confirm},
    {"maintenance", "Move all guests off a node, or let it have some again", "NODE on|off [--wait]",
     "A guest whose pause would be longer than it may stays, and is tried again;\n"
     "--wait says so, and the command that moves it all the same.\n"
     "\n"
     "Example: hactl maintenance n2 on --wait\n",
     run_maintenance},
    {"freeze", "Let a node's guests run unguarded, for long work on hamgr there", "NODE", "",
     run_freeze},
    {"unfreeze", "Guard a frozen node again", "NODE", "", run_unfreeze},
    {"disarm", "Stop all fencing and recovery, for work on corosync or the network", "", "",
     run_disarm},
    {"arm", "Guard the cluster again", "", "", run_arm},
    {"leave", "Take a node that owns no guest out in order", "[NODE]", "", run_leave},
    {"node-shutdown", "Let this node's guests leave or stop, then leave", "[--timeout TIME]",
     "Run by the unit when the host shuts down.\n", run_shutdown},
    {NULL, NULL, NULL, NULL, NULL},
};
