/* SPDX-License-Identifier: Apache-2.0
 *
 * Written after Xen 4.17's libxl_types.idl; members of the 4.14 to 4.20 releases that this one has
 * not are left out, so they are refused by name.
 */
#include "hamgr/hv/xen/definition_keys.h"

#include <stddef.h>

#define SCALAR(key)                                                                                \
    {                                                                                              \
        key, XEN_KEY_SCALAR, NULL, NULL                                                            \
    }
#define TEXT(key)                                                                                  \
    {                                                                                              \
        key, XEN_KEY_TEXT, NULL, NULL                                                              \
    }
#define LIST(key)                                                                                  \
    {                                                                                              \
        key, XEN_KEY_LIST, NULL, NULL                                                              \
    }
#define TREE(key)                                                                                  \
    {                                                                                              \
        key, XEN_KEY_TREE, NULL, NULL                                                              \
    }
#define PROGRAM(key)                                                                               \
    {                                                                                              \
        key, XEN_KEY_PROGRAM, NULL, NULL                                                           \
    }
#define PATH(key)                                                                                  \
    {                                                                                              \
        key, XEN_KEY_PATH, NULL, NULL                                                              \
    }
#define TARGET(key)                                                                                \
    {                                                                                              \
        key, XEN_KEY_TARGET, NULL, NULL                                                            \
    }
#define OBJECT(key, of)                                                                            \
    {                                                                                              \
        key, XEN_KEY_OBJECT, of, NULL                                                              \
    }
#define OBJECTS(key, of)                                                                           \
    {                                                                                              \
        key, XEN_KEY_OBJECTS, of, NULL                                                             \
    }
#define NOT(key, because)                                                                          \
    {                                                                                              \
        key, XEN_KEY_NOT, NULL, because                                                            \
    }
#define END                                                                                        \
    {                                                                                              \
        NULL, XEN_KEY_NOT, NULL, NULL                                                              \
    }

static const char HARDWARE[] = "a guest with hardware of its host can't be moved";
static const char EMULATOR[] = "the emulator and its command line are the node's to choose";
static const char BACKEND[] = "backends are in dom0 only";
static const char COLO[] = "COLO is not offered";
static const char HOST_FILE[] = "it names a file or device of the host outside the roots";
static const char NO_DIRECTORY[] = "a program without a directory of its own for base names";

static const struct xen_key create_info[] = {
    SCALAR("type"),
    SCALAR("hap"),
    SCALAR("oos"),
    SCALAR("ssidref"),
    TEXT("ssid_label"),
    SCALAR("name"),
    SCALAR("domid"), /* hamgr gives it */
    SCALAR("uuid"),
    NOT("xsdata", "xenstore below the guest is the toolstack's"),
    NOT("platformdata", "xenstore below the guest is the toolstack's"),
    SCALAR("poolid"),
    SCALAR("pool_name"),
    SCALAR("run_hotplug_scripts"),
    NOT("driver_domain", BACKEND),
    SCALAR("passthrough"),
    SCALAR("xend_suspend_evtchn_compat"),
    END,
};

static const struct xen_key sched_params[] = {
    SCALAR("sched"),  SCALAR("weight"),  SCALAR("cap"),
    SCALAR("period"), SCALAR("budget"),  SCALAR("extratime"),
    SCALAR("slice"),  SCALAR("latency"), END,
};

static const struct xen_key vga[] = {SCALAR("kind"), END};
static const struct xen_key vnc[] = {
    SCALAR("enable"),  SCALAR("listen"),     TEXT("passwd"),
    SCALAR("display"), SCALAR("findunused"), END,
};
static const struct xen_key sdl[] = {
    SCALAR("enable"),
    SCALAR("opengl"),
    NOT("display", HOST_FILE),
    NOT("xauthority", HOST_FILE),
    END,
};
static const struct xen_key spice[] = {
    NOT("enable", EMULATOR),
    SCALAR("port"),
    SCALAR("tls_port"),
    SCALAR("host"),
    SCALAR("disable_ticketing"),
    TEXT("passwd"),
    SCALAR("agent_mouse"),
    SCALAR("vdagent"),
    SCALAR("clipboard_sharing"),
    SCALAR("usbredirection"),
    SCALAR("image_compression"),
    SCALAR("streaming_video"),
    END,
};
static const struct xen_key rdm[] = {SCALAR("strategy"), SCALAR("policy"), END};

static const struct xen_key build_pv[] = {
    PATH("kernel"),          SCALAR("slack_memkb"), PROGRAM("bootloader"),
    LIST("bootloader_args"), TEXT("cmdline"),       PATH("ramdisk"),
    SCALAR("features"),      SCALAR("e820_host"),   END,
};

static const struct xen_key build_pvh[] = {
    SCALAR("pvshim"), PATH("pvshim_path"), TEXT("pvshim_cmdline"), TEXT("pvshim_extra"), END,
};

static const struct xen_key build_hvm[] = {
    PATH("firmware"),
    SCALAR("bios"),
    SCALAR("pae"),
    SCALAR("apic"),
    SCALAR("acpi"),
    SCALAR("acpi_s3"),
    SCALAR("acpi_s4"),
    SCALAR("acpi_laptop_slate"),
    SCALAR("nx"),
    SCALAR("viridian"),
    LIST("viridian_enable"),
    LIST("viridian_disable"),
    SCALAR("timeoffset"),
    SCALAR("hpet"),
    SCALAR("vpt_align"),
    SCALAR("mmio_hole_memkb"),
    SCALAR("timer_mode"),
    NOT("nested_hvm", "a nested hypervisor's state does not move"),
    SCALAR("altp2m"),
    PATH("system_firmware"),
    PATH("smbios_firmware"),
    PATH("acpi_firmware"),
    SCALAR("hdtype"),
    SCALAR("nographic"),
    OBJECT("vga", vga),
    OBJECT("vnc", vnc),
    SCALAR("keymap"),
    OBJECT("sdl", sdl),
    OBJECT("spice", spice),
    NOT("gfx_passthru", HARDWARE),
    SCALAR("gfx_passthru_kind"),
    SCALAR("serial"), /* "pty" only: definition.c */
    SCALAR("boot"),
    SCALAR("usb"),
    SCALAR("usbversion"),
    SCALAR("usbdevice"), /* "tablet" and the like: definition.c */
    SCALAR("vkb_device"),
    NOT("soundhw", EMULATOR),
    SCALAR("xen_platform_pci"),
    NOT("usbdevice_list", EMULATOR),
    SCALAR("vendor_device"),
    TREE("ms_vm_genid"),
    NOT("serial_list", EMULATOR),
    OBJECT("rdm", rdm),
    SCALAR("rdm_mem_boundary_memkb"),
    SCALAR("mca_caps"),
    END,
};

static const struct xen_key arch_arm[] = {SCALAR("gic_version"), SCALAR("vuart"), END};
static const struct xen_key arch_x86[] = {SCALAR("msr_relaxed"), END};

static const struct xen_key build_info[] = {
    SCALAR("max_vcpus"),
    LIST("avail_vcpus"),
    LIST("cpumap"),
    LIST("nodemap"),
    TREE("vcpu_hard_affinity"),
    TREE("vcpu_soft_affinity"),
    SCALAR("numa_placement"),
    SCALAR("tsc_mode"),
    SCALAR("max_memkb"),
    SCALAR("target_memkb"),
    SCALAR("video_memkb"),
    SCALAR("shadow_memkb"),
    SCALAR("iommu_memkb"),
    SCALAR("rtc_timeoffset"),
    SCALAR("exec_ssidref"),
    TEXT("exec_ssid_label"),
    SCALAR("localtime"),
    NOT("disable_migrate", "a guest that must not move is pinned by its policy instead"),
    TREE("cpuid"),
    SCALAR("blkdev_start"),
    NOT("vnuma_nodes", "libxl can't save a guest with virtual NUMA nodes"),
    SCALAR("max_grant_frames"),
    SCALAR("max_maptrack_frames"),
    SCALAR("max_grant_version"),
    SCALAR("device_model_version"),
    NOT("device_model_stubdomain", EMULATOR),
    SCALAR("stubdomain_memkb"),
    NOT("stubdomain_kernel", EMULATOR),
    NOT("stubdomain_cmdline", EMULATOR),
    NOT("stubdomain_ramdisk", EMULATOR),
    NOT("device_model", NO_DIRECTORY),
    SCALAR("device_model_ssidref"),
    TEXT("device_model_ssid_label"),
    NOT("device_model_user", EMULATOR),
    NOT("extra", EMULATOR),
    NOT("extra_pv", EMULATOR),
    NOT("extra_hvm", EMULATOR),
    OBJECT("sched_params", sched_params),
    NOT("ioports", HARDWARE),
    NOT("irqs", HARDWARE),
    NOT("iomem", HARDWARE),
    SCALAR("claim_mode"),
    SCALAR("event_channels"),
    PATH("kernel"),
    TEXT("cmdline"),
    PATH("ramdisk"),
    NOT("device_tree", HARDWARE),
    SCALAR("acpi"),
    PROGRAM("bootloader"),
    LIST("bootloader_args"),
    SCALAR("timer_mode"),
    NOT("nested_hvm", "a nested hypervisor's state does not move"),
    SCALAR("apic"),
    SCALAR("dm_restrict"),
    SCALAR("tee"),
    SCALAR("type"),
    OBJECT("type.pv", build_pv),
    OBJECT("type.pvh", build_pvh),
    OBJECT("type.hvm", build_hvm),
    OBJECT("arch_arm", arch_arm),
    OBJECT("arch_x86", arch_x86),
    SCALAR("altp2m"),
    SCALAR("vmtrace_buf_kb"),
    SCALAR("vpmu"),
    END,
};

static const struct xen_key disk[] = {
    NOT("backend_domid", BACKEND),
    NOT("backend_domname", BACKEND),
    TARGET("pdev_path"),
    SCALAR("vdev"),
    SCALAR("backend"),
    SCALAR("format"),
    PROGRAM("script"),
    SCALAR("removable"),
    SCALAR("readwrite"),
    SCALAR("is_cdrom"),
    SCALAR("direct_io_safe"),
    SCALAR("discard_enable"),
    SCALAR("specification"),
    SCALAR("transport"),
    SCALAR("irq"),
    SCALAR("base"),
    NOT("colo_enable", COLO),
    NOT("colo_restore_enable", COLO),
    NOT("colo_host", COLO),
    NOT("colo_port", COLO),
    NOT("colo_export", COLO),
    NOT("active_disk", COLO),
    NOT("hidden_disk", COLO),
    SCALAR("trusted"),
    END,
};

static const struct xen_key nic[] = {
    NOT("backend_domid", BACKEND),
    NOT("backend_domname", BACKEND),
    SCALAR("devid"),
    SCALAR("mtu"),
    SCALAR("model"),
    SCALAR("mac"),
    TEXT("ip"),
    SCALAR("bridge"),
    SCALAR("ifname"),
    PROGRAM("script"),
    SCALAR("nictype"),
    SCALAR("rate_bytes_per_interval"),
    SCALAR("rate_interval_usecs"),
    SCALAR("gatewaydev"),
    NOT("coloft_forwarddev", COLO),
    SCALAR("trusted"),
    END,
};

static const struct xen_key vfb[] = {
    NOT("backend_domid", BACKEND),
    NOT("backend_domname", BACKEND),
    SCALAR("devid"),
    OBJECT("vnc", vnc),
    OBJECT("sdl", sdl),
    SCALAR("keymap"),
    END,
};

static const struct xen_key vkb[] = {
    NOT("backend_domid", BACKEND),
    NOT("backend_domname", BACKEND),
    SCALAR("devid"),
    SCALAR("backend_type"),
    SCALAR("unique_id"),
    SCALAR("feature_disable_keyboard"),
    SCALAR("feature_disable_pointer"),
    SCALAR("feature_abs_pointer"),
    SCALAR("feature_raw_pointer"),
    SCALAR("feature_multi_touch"),
    SCALAR("width"),
    SCALAR("height"),
    SCALAR("multi_touch_width"),
    SCALAR("multi_touch_height"),
    SCALAR("multi_touch_num_contacts"),
    END,
};

const struct xen_key xen_keys_root[] = {
    OBJECT("c_info", create_info),
    OBJECT("b_info", build_info),
    OBJECTS("disks", disk),
    OBJECTS("nics", nic),
    NOT("pcidevs", HARDWARE),
    NOT("rdms", HARDWARE),
    NOT("dtdevs", HARDWARE),
    OBJECTS("vfbs", vfb),
    OBJECTS("vkbs", vkb),
    NOT("vtpms", "its state does not move"),
    NOT("p9s", HOST_FILE),
    NOT("pvcallsifs", HOST_FILE),
    NOT("vdispls", HOST_FILE),
    NOT("vsnds", HOST_FILE),
    NOT("channels", HOST_FILE),
    NOT("usbctrls", HARDWARE),
    NOT("usbdevs", HARDWARE),
    SCALAR("on_poweroff"),
    SCALAR("on_reboot"),
    SCALAR("on_watchdog"),
    SCALAR("on_crash"),
    SCALAR("on_soft_reset"),
    END,
};
