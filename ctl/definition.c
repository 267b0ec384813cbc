/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/definition.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hamgr/config/config.h"
#include "hamgr/hv/embedded/definition.h"
#include "hamgr/hv/xen/definition.h"

#define XL_PATH "/usr/sbin/xl"

/* ---- xl's dry run ---- */

_Noreturn static void run_xl(const char *name, int in, int out, int words)
{
    char path[32], line[HA_NAME_MAX + 16];

    /* Its number may be above what xl closes, and 0 is always there. */
    if (dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
        dup2(words, STDERR_FILENO) < 0)
        _exit(126);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", STDIN_FILENO);
    /* As if it were the file's last line: xl wants a name, and the guest has one. */
    snprintf(line, sizeof(line), "name=\"%s\"", name);
    execl(XL_PATH, "xl", "-N", "create", path, line, (char *)NULL);
    _exit(127);
}

static int read_back(int fd, char *ret_text, size_t capacity, size_t *ret_size)
{
    ssize_t size = pread(fd, ret_text, capacity, 0);

    if (size < 0)
        return -errno;
    if ((size_t)size == capacity)
        return -EFBIG;
    ret_text[size] = '\0';
    *ret_size = (size_t)size;
    return 0;
}

static int convert_with(struct guest_definition *d, const char *name, int in, int out, int words,
                        struct ha_err *err)
{
    char why[HA_TEXT_MAX] = "";
    size_t size;
    int status = 0;

    if (write(in, d->text, d->size) != (ssize_t)d->size || lseek(in, 0, SEEK_SET) != 0)
        return ha_err_set(err, errno, "xl.cfg: %s", strerror(errno));
    pid_t pid = fork();
    if (pid == 0)
        run_xl(name, in, out, words);
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return ha_err_set(err, errno, "xl: %s", strerror(errno));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        (void)read_back(words, why, sizeof(why), &size);
        return ha_err_set(err, HA_E_USAGE, "xl -N create refuses it: %.180s", why);
    }
    int rc = read_back(out, d->text, sizeof(d->text), &d->size);
    return rc == 0 ? 0 : ha_err_set(err, -rc, "what xl makes of it: %s", strerror(-rc));
}

static int convert(struct guest_definition *d, const char *name, struct ha_err *err)
{
    int fds[3];

    if (access(XL_PATH, X_OK) != 0)
        return ha_err_set(err, HA_E_USAGE,
                          "xl.cfg needs " XL_PATH ", which is not here: give the JSON that xl -N "
                          "create FILE prints on a node");
    for (size_t n = 0; n < 3; n++)
        fds[n] = memfd_create("xl", MFD_CLOEXEC);
    int rc = fds[0] >= 0 && fds[1] >= 0 && fds[2] >= 0
                 ? convert_with(d, name, fds[0], fds[1], fds[2], err)
                 : ha_err_set(err, errno, "%s", strerror(errno));
    for (size_t n = 0; n < 3; n++)
        if (fds[n] >= 0)
            close(fds[n]);
    return rc;
}

/* ---- */

static bool is_xen_node(void)
{
    static struct ha_config config;

    return access(HA_CONFIG_PATH, R_OK) == 0 &&
           ha_config_load(HA_CONFIG_PATH, &config, NULL) == 0 &&
           strcmp(config.hypervisor, "xen") == 0;
}

static int resolve_xen(struct guest_definition *d, const char *name, struct ha_err *err)
{
    struct xen_definition found;
    char *text = xen_definition_identify((const uint8_t *)d->text, d->size, name,
                                         d->uuid[0] != '\0' ? d->uuid : NULL);

    if (!text)
        return ha_err_set(err, HA_E_USAGE, "no JSON of a Xen guest");
    size_t size = strlen(text);
    if (size > HA_DEFINITION_MAX) {
        free(text);
        return ha_err_set(err, HA_E_LIMIT, "longer than 64 KiB");
    }
    memcpy(d->text, text, size + 1);
    d->size = size;
    free(text);
    /* What this node's list allows says nothing of others: each checks with its own. */
    int rc = xen_definition_parse((const uint8_t *)d->text, d->size, NULL, &found, err);
    if (rc != 0)
        return rc;
    d->mem_kib = found.mem_kib;
    if (!ha_uuid_is_zero(found.uuid))
        ha_uuid_format(found.uuid, d->uuid);
    return 0;
}

int definition_resolve(struct guest_definition *d, const char *name, struct ha_err *err)
{
    struct emb_definition definition;
    bool is_json = xen_definition_is_json((const uint8_t *)d->text, d->size);
    int rc = 0;

    if (d->is_file && !is_json && is_xen_node()) {
        rc = convert(d, name, err);
        is_json = true;
    }
    if (rc != 0)
        return rc;
    if (is_json)
        return resolve_xen(d, name, err);
    rc = emb_definition_parse((const uint8_t *)d->text, d->size, &definition, err);
    if (rc == 0)
        d->mem_kib = (uint64_t)definition.memory_mib * 1024;
    return rc;
}
