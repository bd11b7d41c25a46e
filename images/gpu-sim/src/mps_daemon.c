/* The daemon's life: its lock, sockets and log, its loop, and its end. */
#include "mps_daemon.h"

#include "mps_directories.h"
#include "mps_memory.h"
#include "mps_socket.h"
#include "mps_values.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TICK_MILLISECONDS = 100, SERVER_END_TICKS = 20 };

#define PID_FILE "nvidia-cuda-mps-control.pid"

int64_t mps_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int fail(const char *what, const char *name)
{
    fprintf(stderr, "nvidia-cuda-mps-control (simulated): %s %s: %s\n", what, name, strerror(errno));
    return EXIT_FAILURE;
}

/* Opens a file of the pipe directory for everyone, whatever the umask. */
static int open_shared(const char *name)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", mps_pipe_directory(), name) >= (int)sizeof path)
        return -1;
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    /* It fails for a file of another user's; if we may write that, its mode is right already. */
    if (file >= 0)
        (void)!fchmod(file, 0666);
    return file;
}

/* Held until the last process that inherits it ends, so a killed daemon leaves no lock behind. */
static int lock_directory(void)
{
    mkdir(mps_pipe_directory(), 0755);
    int lock = open_shared("control_lock");
    if (lock < 0)
        return fail("cannot open control_lock in", mps_pipe_directory());
    if (flock(lock, LOCK_EX | LOCK_NB) == 0)
        return EXIT_SUCCESS;
    puts("An instance of this daemon is already running");
    return EXIT_FAILURE;
}

static int load_devices(struct mps_daemon *daemon)
{
    char error[PATH_MAX + 256];
    if (!inventory_load(&daemon->inventory, error, sizeof error)) {
        fprintf(stderr, "nvidia-cuda-mps-control (simulated): %s\n", error);
        return EXIT_FAILURE;
    }
    daemon->device_count = devices_list(&daemon->inventory, getenv("CUDA_VISIBLE_DEVICES"), daemon->devices);
    return EXIT_SUCCESS;
}

/* CUDA_MPS_PINNED_DEVICE_MEM_LIMIT in the daemon's environment limits nothing: measured. */
static void read_environment(struct mps_daemon *daemon)
{
    const char *percentage = getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
    daemon->defaults.percentage = MPS_ALL_THREADS;
    if (percentage != NULL)
        mps_parse_percentage(percentage, &daemon->defaults.percentage);
}

static int open_sockets(struct mps_daemon *daemon)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    daemon->signals = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    daemon->listeners[0] = mps_listen("control", 0666);
    daemon->listeners[1] = mps_listen("control_privileged", 0755);
    if (daemon->signals < 0 || daemon->listeners[0] < 0 || daemon->listeners[1] < 0)
        return fail("cannot listen in", mps_pipe_directory());
    return EXIT_SUCCESS;
}

static int open_log(struct mps_daemon *daemon, bool background)
{
    daemon->log = (struct mps_log){.file = STDERR_FILENO, .role = "Control"};
    if (background)
        daemon->log.file = mps_log_open("control.log");
    return daemon->log.file >= 0 ? EXIT_SUCCESS : fail("cannot open control.log in", mps_log_directory());
}

static void write_pid(pid_t pid)
{
    int file = open_shared(PID_FILE);
    if (file < 0)
        return;
    if (ftruncate(file, 0) == 0)
        dprintf(file, "%d", (int)pid);
    close(file);
}

/* Leaves whoever started it; output that nobody reads goes nowhere. */
static void detach(void)
{
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    setsid();
    for (int standard = 0; nothing >= 0 && standard <= 2; standard++)
        dup2(nothing, standard);
}

static void log_start(const struct mps_daemon *daemon)
{
    const char *directory = mps_pipe_directory();
    mps_log_line(&daemon->log, "Starting control daemon using socket %s/control", directory);
    mps_log_line(&daemon->log, "To connect CUDA applications to this daemon, set env CUDA_MPS_PIPE_DIRECTORY=%s",
                 directory);
    mps_log_line(&daemon->log, "CUDA MPS Control binary version: %u (simulated)",
                 daemon->inventory.config.cuda_version);
}

static void reap(struct mps_daemon *daemon)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        mps_server_ended(daemon, pid, status);
}

static void take_signals(struct mps_daemon *daemon)
{
    struct signalfd_siginfo received;
    while (read(daemon->signals, &received, sizeof received) == (ssize_t)sizeof received) {
        if (received.ssi_signo != SIGCHLD)
            daemon->stop_signal = (int)received.ssi_signo;
    }
    /* What a server told before it ended comes first. */
    mps_server_receive(daemon);
    reap(daemon);
}

/* -1 unless something ends by time alone. */
static int wait_milliseconds(const struct mps_daemon *daemon)
{
    bool timed = daemon->quit_deadline != 0;
    for (unsigned int i = 0; i < MPS_MAX_PEERS; i++)
        timed = timed || daemon->peers[i].state == PEER_NEW;
    return timed ? TICK_MILLISECONDS : -1;
}

static void wait_for_anything(const struct mps_daemon *daemon)
{
    struct pollfd waited[2 + MPS_LISTENERS + MPS_MAX_PEERS] = {{.fd = daemon->signals, .events = POLLIN},
                                                               {.fd = daemon->server.channel, .events = POLLIN}};
    nfds_t count = 2;
    for (unsigned int i = 0; i < MPS_LISTENERS; i++)
        waited[count++] = (struct pollfd){.fd = daemon->listeners[i], .events = POLLIN};
    for (unsigned int i = 0; i < MPS_MAX_PEERS; i++) {
        if (daemon->peers[i].state != PEER_NONE)
            waited[count++] = (struct pollfd){.fd = daemon->peers[i].socket, .events = POLLIN};
    }
    poll(waited, count, wait_milliseconds(daemon));
}

static bool is_finished(const struct mps_daemon *daemon)
{
    if (daemon->stop_signal != 0)
        return true;
    return daemon->quitting && (mps_server_is_idle(&daemon->server) ||
                                (daemon->quit_deadline != 0 && mps_now() >= daemon->quit_deadline));
}

/* A server ends when its channel does; one that does not is made to. */
static void end_server(struct mps_daemon *daemon)
{
    struct pollfd signals = {.fd = daemon->signals, .events = POLLIN};
    mps_server_stop(daemon);
    for (int i = 0; daemon->server.pid != 0 && i < SERVER_END_TICKS; i++) {
        poll(&signals, 1, TICK_MILLISECONDS);
        take_signals(daemon);
    }
    if (daemon->server.pid == 0)
        return;
    kill(daemon->server.pid, SIGKILL);
    waitpid(daemon->server.pid, NULL, 0);
    mps_memory_remove(daemon->server.pid);
}

static void serve(struct mps_daemon *daemon)
{
    while (!is_finished(daemon)) {
        wait_for_anything(daemon);
        take_signals(daemon);
        mps_peers_accept(daemon);
        mps_peers_receive(daemon);
        mps_peers_serve_pending(daemon);
    }
    if (daemon->server.pid != 0)
        end_server(daemon);
    mps_log_line(&daemon->log, "Exit");
    mps_peers_close(daemon);
}

/* Whoever waits for it learns of the signal, as from NVIDIA's daemon. */
static int end_by_signal(int number)
{
    sigset_t none;
    signal(number, SIG_DFL);
    raise(number);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* Only process 1 of a container comes here. */
    return 128 + number;
}

int mps_daemon_run(bool background, bool multiuser)
{
    static struct mps_daemon daemon;
    daemon.multiuser = multiuser;
    daemon.server.channel = -1;
    read_environment(&daemon);
    if (lock_directory() != EXIT_SUCCESS)
        return EXIT_FAILURE;
    mps_memory_remove_all();
    if (load_devices(&daemon) != EXIT_SUCCESS || open_log(&daemon, background) != EXIT_SUCCESS ||
        open_sockets(&daemon) != EXIT_SUCCESS)
        return EXIT_FAILURE;
    /* Clients may connect from here on, so that whoever started the daemon need not wait for it. */
    pid_t pid = background ? fork() : getpid();
    if (pid < 0)
        return fail("cannot start", "the daemon");
    if (pid > 0)
        write_pid(pid);
    if (background && pid > 0)
        return EXIT_SUCCESS;
    if (background)
        detach();
    log_start(&daemon);
    serve(&daemon);
    return daemon.stop_signal == 0 ? EXIT_SUCCESS : end_by_signal(daemon.stop_signal);
}
