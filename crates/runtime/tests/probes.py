# Attempts to leave or to look out of an instance. Run inside one, and as a control on the host.
# Prints "NAME possible", "NAME refused WHY" or "NAME absent WHY" (this kernel has no such thing), a line each.
# Each attempt runs in a process of its own. On the host, attempts that would change something happen in new namespaces.
import array, ctypes, errno, fcntl, json, mmap, os, signal, socket, struct, sys, tempfile, termios, pty, traceback

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
facts = json.loads(sys.argv[1])
control = facts["control"]

def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result

def scratch():
    return tempfile.mkdtemp(dir=facts["scratch"])

probes = {}
def probe(private=0):
    def register(function):
        probes[function.__name__] = (function, private)
        return function
    return register

NEWNS, NEWUTS, NEWNET, NEWUSER, NEWIPC = 0x20000, 0x4000000, 0x40000000, 0x10000000, 0x8000000

# Mounts and devices
@probe(NEWNS)
def mount_tmpfs():
    if libc.mount(b"t", scratch().encode(), b"tmpfs", 0, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")
@probe(NEWNS)
def remount_root_writable_proc():
    if libc.mount(None, b"/proc", None, 32 | 4096, None) != 0:  # MS_REMOUNT|MS_BIND
        raise OSError(ctypes.get_errno(), "remount")
@probe(NEWNS)
def fsopen():
    call(430, b"tmpfs", 0)
@probe(NEWNS)
def open_tree_clone():
    call(428, -100, b"/", 1)
@probe(NEWNS)
def pivot_or_chroot():
    call(161, scratch().encode())
@probe()
def mknod_disk():
    os.mknod(scratch() + "/disk", 0o600 | 0o060000, os.makedev(254, 0))
@probe()
def open_host_disk():
    names = [n for n in ("vda", "sda", "xvda", "nvme0n1", "loop0") if os.path.exists("/dev/" + n)]
    if not names: raise OSError(errno.ENOENT, "no disk")
    os.close(os.open("/dev/" + names[0], os.O_RDONLY))
@probe()
def open_kernel_memory():
    os.close(os.open("/dev/kmsg", os.O_RDONLY))
# Kernel interfaces
@probe()
def bpf():
    call(321, 0, ctypes.create_string_buffer(struct.pack("IIIII", 2, 4, 8, 1, 0) + b"\0" * 100), 72)
@probe()
def keyctl():
    call(250, 0, -3, 1)
@probe()
def add_key():
    call(248, b"user", b"stoa-probe", b"x", 1, -2)
@probe()
def io_uring():
    call(425, 1, ctypes.create_string_buffer(120))
@probe()
def userfaultfd():
    call(323, 0)
@probe()
def perf_event():
    attr = ctypes.create_string_buffer(struct.pack("IIQ", 1, 112, 0) + b"\0" * 96)
    call(298, attr, 0, -1, -1, 0)
@probe()
def kexec():
    call(246, 0, 0, None, 0)
@probe()
def load_module():
    try:
        call(175, b"x" * 64, 64, b"")
    except OSError as error:
        # Refused for what it is, not for who asks: it got as far as the loader.
        if error.errno in (errno.ENOEXEC, errno.EBADMSG): return
        raise
@probe()
def unshare_user():
    call(272, NEWUSER)
@probe()
def unshare_mount():
    call(272, NEWNS)
@probe()
def clone_user():
    pid = call(56, NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
@probe()
def clone3():
    args = ctypes.create_string_buffer(struct.pack("8Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0))
    pid = call(435, args, 64)
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
@probe()
def join_namespace():
    call(308, os.open("/proc/self/ns/net", os.O_RDONLY), 0)
@probe()
def trace_itself():
    call(101, 0, 0, 0, 0)
@probe()
def trace_process_one():
    call(101, 0x4206, facts["victim"] if control else 1, 0, 0)
@probe()
def read_memory_of_another():
    buffer = ctypes.create_string_buffer(8)
    iov = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(buffer), 8))
    call(310, os.getpid(), iov, 1, iov, 1, 0)
@probe()
def steal_descriptor():
    call(438, call(434, os.getpid(), 0), 0, 0)
@probe()
def open_by_handle():
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + b"\0" * 128)
    call(303, -100, b"/usr", handle, ctypes.create_string_buffer(4), 0)
@probe()
def personality():
    call(135, 0x0040000)
@probe()
def io_ports():
    call(172, 3)
@probe(NEWUTS)
def set_hostname():
    call(170, b"probe", 5)
@probe()
def read_kernel_log():
    call(103, 10, None, 0)
@probe()
def change_clock():
    call(159, ctypes.create_string_buffer(256))
@probe()
def set_dumb_terminal_input():
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSTI, b"x")
# Files of the kernel and the host
@probe()
def write_core_pattern():
    os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
@probe()
def write_modprobe():
    os.close(os.open("/proc/sys/vm/overcommit_memory", os.O_WRONLY))
@probe()
def write_net_setting():
    os.close(os.open("/proc/sys/net/ipv4/ip_forward", os.O_WRONLY))
@probe()
def sysrq():
    os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))
@probe()
def read_kcore():
    with open("/proc/kcore", "rb") as f:
        if len(f.read(64)) < 64: raise OSError(errno.ENODATA, "empty")
@probe()
def read_kernel_symbols():
    with open("/proc/kallsyms") as f:
        if not f.read(64): raise OSError(errno.ENODATA, "empty")
@probe()
def read_timer_list():
    with open("/proc/timer_list") as f:
        if not f.read(16): raise OSError(errno.ENODATA, "empty")
@probe()
def cgroup_release_agent():
    found = [p for p in ("/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/memory/cgroup.procs") if os.path.exists(p)]
    if not found: raise OSError(errno.ENOENT, "no cgroup files")
    os.close(os.open(found[0], os.O_WRONLY if os.access(found[0], os.W_OK) else os.O_RDONLY))
@probe()
def uevent_helper():
    if not os.listdir("/sys"): raise OSError(errno.ENOENT, "/sys is empty")
@probe()
def host_file():
    open(facts["host_file"]).read()
@probe()
def host_root_directory():
    names = os.listdir("/proc/1/root/") if not control else os.listdir("/")
    if "work" not in names and "home" not in names and "var" not in names: raise OSError(errno.ENOENT, "only its own root")
    if not control and sorted(names) == sorted(os.listdir("/")): raise OSError(errno.ENOENT, "only its own root")
@probe()
def write_runtime_binary():
    if control:
        path = scratch() + "/binary"
        open(path, "wb").write(b"x")
    else:
        path = "/proc/1/exe"
    os.close(os.open(path, os.O_RDWR))
@probe()
def truncate_runtime_binary():
    if control:
        path = scratch() + "/binary"
        open(path, "wb").write(b"x")
    else:
        path = "/proc/1/exe"
    os.truncate(path, 0)
@probe()
def descriptor_leak():
    # Our standard three; anything else came from the runtime.
    leaked = [fd for fd in os.listdir("/proc/1/fd") if int(fd) > 2] if not control else ["yes"]
    if not leaked: raise OSError(errno.ENOENT, "none")
# Other processes and instances
@probe()
def see_other_instance():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if facts["marker"].encode() in open(f"/proc/{pid}/cmdline", "rb").read() and int(pid) != os.getpid() and b"probe" not in open(f"/proc/{pid}/cmdline", "rb").read():
                return
        except OSError: pass
    raise OSError(errno.ESRCH, "not seen")
@probe()
def signal_other_instance():
    os.kill(facts["victim"], 0)
@probe()
def other_shared_memory():
    call(29, facts["shm_key"], 0, 0)
@probe()
def host_abstract_socket():
    s = socket.socket(socket.AF_UNIX)
    s.connect("\0" + facts["abstract"])
@probe()
def host_loopback():
    s = socket.create_connection(("127.0.0.1", facts["port"]), 5)
# Network
@probe()
def raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
@probe()
def packet_socket():
    socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
@probe()
def vsock():
    socket.socket(40, socket.SOCK_STREAM)
@probe()
def kernel_crypto():
    socket.socket(38, socket.SOCK_SEQPACKET)
@probe(NEWNET)
def set_interface_down():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 0))
@probe(NEWNET)
def add_route_by_netlink():
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    s.bind((0, 0))
    # RTM_NEWLINK of a dummy named p0.
    name = struct.pack("HH", 7, 3) + b"p0\0\0"
    kind = struct.pack("HH", 12 + 4, 18) + struct.pack("HH", 9 + 1, 1) + b"dummy\0\0\0"
    body = struct.pack("BxHiII", 0, 0, 0, 0, 0) + name + kind
    s.send(struct.pack("IHHII", 16 + len(body), 16, 0x605, 1, 0) + body)
    code = -struct.unpack("i", s.recv(4096)[16:20])[0]
    # EOPNOTSUPP: allowed to ask, no such driver here.
    if code and code != errno.EOPNOTSUPP: raise OSError(code, os.strerror(code))
# Rights
@probe()
def gain_by_setuid():
    # A set-user-id copy of a program, run as an ordinary user.
    path = scratch()
    os.chmod(path, 0o755)
    tool = path + "/tool"
    import shutil
    shutil.copy("/usr/bin/id", tool)
    os.chown(tool, 0, 0)
    os.chmod(tool, 0o4755)
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([]); os.setgid(1000); os.setuid(1000)
        os.dup2(w, 1)
        os.execv(tool, ["id", "-u"])
    os.close(w)
    text = os.read(r, 100).decode().strip()
    os.waitpid(pid, 0)
    if text != "0": raise OSError(errno.EPERM, "still uid " + text)
@probe()
def gain_capability():
    have = int([l for l in open("/proc/self/status") if l.startswith("CapBnd")][0].split()[1], 16)
    dangerous = 1 << 21 | 1 << 12 | 1 << 19 | 1 << 16 | 1 << 17 | 1 << 22 | 1 << 27 | 1 << 13 | 1 << 18
    if not have & dangerous: raise OSError(errno.EPERM, "not in the bounding set")
@probe()
def run_unfiltered():
    status = open("/proc/self/status").read()
    mode = [l.split()[1] for l in status.splitlines() if l.startswith("Seccomp:")][0]
    if mode == "2": raise OSError(errno.EPERM, "filtered")
@probe()
def become_host_root():
    uid_map = open("/proc/self/uid_map").read().split()
    if uid_map[1] != "0": raise OSError(errno.EPERM, "0 inside is " + uid_map[1] + " outside")

ABSENT = (errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
for name, (function, private) in probes.items():
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(r)
        try:
            if control and private and libc.unshare(private) == 0 and private & NEWNS:
                libc.mount(None, b"/", None, 1 << 18 | 16384, None)
            function()
            text = "possible"
        except OSError as error:
            word = "absent" if control and error.errno in ABSENT else "refused"
            text = f"{word} {errno.errorcode.get(error.errno, error.errno)} {error.strerror}"
        except Exception:
            text = "broken " + traceback.format_exc().replace("\n", "|")
        os.write(w, text.encode())
        os._exit(0)
    os.close(w)
    text = os.read(r, 4000).decode() or "killed"
    os.close(r)
    os.waitpid(pid, 0)
    print(name, text, flush=True)
print("finished", flush=True)
