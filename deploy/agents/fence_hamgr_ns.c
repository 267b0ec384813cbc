/* SPDX-License-Identifier: Apache-2.0
 *
 * fence_hamgr_ns: the fence agent of nodes in namespaces. It speaks the fence-agents API (stdin
 * key=value lines, or options) and asks the power device outside the nodes through a socket that is
 * bound into each node: one SEQPACKET "ACTION PLUG", one answer. The device says off only when the
 * node's PID namespace is gone, so its word is evidence.
 *
 * Exit codes as the API wants them: 0 done or on, 2 off (status), 1 anything else.
 */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define TEXT_MAX  4096
#define VALUE_MAX 128
/* The device kills and waits at most 10 s for a namespace to end; twice that means it hangs. */
#define TIMEOUT_S  20
#define PATH_USUAL "/run/hamgr-node/bmc"

struct options {
    char path[VALUE_MAX];
    char plug[VALUE_MAX];
    char action[VALUE_MAX];
};

static const char metadata[] =
    "<?xml version=\"1.0\" ?>\n"
    "<resource-agent name=\"fence_hamgr_ns\" shortdesc=\"Fence agent for hamgr's nodes in "
    "namespaces\">\n"
    "<longdesc>Asks the power device outside the namespaces. It pulls the node's cable, kills the "
    "node's PID 1, and says off only when its PID namespace is gone.</longdesc>\n"
    "<parameters>\n"
    "  <parameter name=\"action\" unique=\"0\" required=\"1\">\n"
    "    <getopt mixed=\"-o, --action=[action]\"/>\n"
    "    <content type=\"string\" default=\"off\"/>\n"
    "    <shortdesc lang=\"en\">Fencing action</shortdesc>\n"
    "  </parameter>\n"
    "  <parameter name=\"plug\" unique=\"0\" required=\"1\">\n"
    "    <getopt mixed=\"-n, --plug=[name]\"/>\n"
    "    <content type=\"string\"/>\n"
    "    <shortdesc lang=\"en\">Name of the node</shortdesc>\n"
    "  </parameter>\n"
    "  <parameter name=\"path\" unique=\"0\" required=\"0\">\n"
    "    <getopt mixed=\"--path=[socket]\"/>\n"
    "    <content type=\"string\" default=\"" PATH_USUAL "\"/>\n"
    "    <shortdesc lang=\"en\">Socket of the power device</shortdesc>\n"
    "  </parameter>\n"
    "</parameters>\n"
    "<actions>\n"
    "  <action name=\"on\" automatic=\"0\"/>\n"
    "  <action name=\"off\"/>\n"
    "  <action name=\"reboot\"/>\n"
    "  <action name=\"status\"/>\n"
    "  <action name=\"list\"/>\n"
    "  <action name=\"monitor\"/>\n"
    "  <action name=\"metadata\"/>\n"
    "</actions>\n"
    "</resource-agent>\n";

static bool set(char *ret_value, const char *value)
{
    size_t size = strlen(value) + 1;
    if (size > VALUE_MAX || strpbrk(value, " \t\n")) {
        fprintf(stderr, "fence_hamgr_ns: bad value \"%.64s\"\n", value);
        return false;
    }
    memcpy(ret_value, value, size);
    return true;
}

/* Keys the API lets a caller send and we have no use for are ignored. */
static bool set_key(struct options *options, const char *key, const char *value)
{
    if (strcmp(key, "action") == 0 || strcmp(key, "option") == 0) {
        return set(options->action, value);
    }
    if (strcmp(key, "plug") == 0 || strcmp(key, "port") == 0) {
        return set(options->plug, value);
    }
    if (strcmp(key, "path") == 0) {
        return set(options->path, value);
    }
    return true;
}

static bool options_from_stdin(struct options *options)
{
    char line[1024];
    for (int lines = 0; lines < 1000 && fgets(line, sizeof(line), stdin); lines++) {
        line[strcspn(line, "\r\n")] = '\0';
        char *value = strchr(line, '=');
        if (!value) {
            continue;
        }
        *value++ = '\0';
        if (!set_key(options, line, value)) {
            return false;
        }
    }
    return true;
}

static bool options_from_argv(struct options *options, int argc, char **argv)
{
    static const struct option known[] = {{"action", required_argument, NULL, 'o'},
                                          {"plug", required_argument, NULL, 'n'},
                                          {"path", required_argument, NULL, 'p'},
                                          {NULL, 0, NULL, 0}};
    int opt;
    while ((opt = getopt_long(argc, argv, "o:n:", known, NULL)) != -1) {
        bool ok = opt == 'o'   ? set(options->action, optarg)
                  : opt == 'n' ? set(options->plug, optarg)
                  : opt == 'p' ? set(options->path, optarg)
                               : false;
        if (!ok) {
            return false;
        }
    }
    return true;
}

static int device_connect(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const struct timeval limit = {.tv_sec = TIMEOUT_S};
    if (strlen(path) >= sizeof(addr.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(addr.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) != 0 ||
        connect(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

/* Sends "action plug" and reads the answer. False (and words on stderr) without one. */
static bool device_ask(const struct options *options, const char *action, char *ret_answer)
{
    char request[2 * VALUE_MAX + 2];
    int size = snprintf(request, sizeof(request), "%s %s", action, options->plug);
    int fd = device_connect(options->path);
    if (fd < 0) {
        fprintf(stderr, "fence_hamgr_ns: %s: %s\n", options->path, strerror(errno));
        return false;
    }
    ssize_t n = -1;
    if (size > 0 && send(fd, request, (size_t)size, MSG_NOSIGNAL) == size) {
        n = recv(fd, ret_answer, TEXT_MAX - 1, 0);
    }
    if (n <= 0) {
        fprintf(stderr, "fence_hamgr_ns: no answer from %s: %s\n", options->path,
                n == 0 ? "closed" : strerror(errno));
    } else {
        ret_answer[n] = '\0';
    }
    close(fd);
    return n > 0;
}

/* on, off: the device answers "ok" when it is done. */
static int act(const struct options *options, const char *action)
{
    char answer[TEXT_MAX];
    if (!device_ask(options, action, answer)) {
        return 1;
    }
    if (strcmp(answer, "ok") != 0) {
        fprintf(stderr, "fence_hamgr_ns: %s %s: %s\n", action, options->plug, answer);
        return 1;
    }
    printf("Success: %s %s\n", action, options->plug);
    return 0;
}

static int status(const struct options *options)
{
    char answer[TEXT_MAX];
    if (!device_ask(options, "status", answer)) {
        return 1;
    }
    if (strcmp(answer, "on") == 0) {
        printf("Status: ON\n");
        return 0;
    }
    if (strcmp(answer, "off") == 0) {
        printf("Status: OFF\n");
        return 2;
    }
    fprintf(stderr, "fence_hamgr_ns: status %s: %s\n", options->plug, answer);
    return 1;
}

/* Names the plugs, one a line; monitor only wants to know that the device answers. */
static int list(const struct options *options, bool is_printed)
{
    char answer[TEXT_MAX];
    if (!device_ask(options, "list", answer) || strncmp(answer, "error", 5) == 0) {
        return 1;
    }
    char *save = NULL;
    for (char *plug = strtok_r(answer, " ", &save); plug && is_printed;
         plug = strtok_r(NULL, " ", &save)) {
        printf("%s,\n", plug);
    }
    return 0;
}

static int run(const struct options *options)
{
    const char *action = options->action;
    if (strcmp(action, "metadata") == 0) {
        fputs(metadata, stdout);
        return 0;
    }
    if (strcmp(action, "list") == 0 || strcmp(action, "monitor") == 0) {
        return list(options, action[0] == 'l');
    }
    if (options->plug[0] == '\0') {
        fprintf(stderr, "fence_hamgr_ns: action %s needs plug\n", action);
        return 1;
    }
    if (strcmp(action, "status") == 0) {
        return status(options);
    }
    if (strcmp(action, "on") == 0 || strcmp(action, "off") == 0) {
        return act(options, action);
    }
    if (strcmp(action, "reboot") == 0) {
        return act(options, "off") != 0 ? 1 : act(options, "on");
    }
    fprintf(stderr, "fence_hamgr_ns: unknown action \"%s\"\n", action);
    return 1;
}

int main(int argc, char **argv)
{
    struct options options = {.path = PATH_USUAL, .action = "off"};
    bool ok = argc > 1 ? options_from_argv(&options, argc, argv) : options_from_stdin(&options);
    return ok ? run(&options) : 1;
}
