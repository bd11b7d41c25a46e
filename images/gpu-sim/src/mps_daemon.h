/* The daemon behind nvidia-cuda-mps-control: one server at a time, its clients, and who is connected.
   It has one thread, and nothing it does for one connection waits for that connection. */
#ifndef GPU_SIM_MPS_DAEMON_H
#define GPU_SIM_MPS_DAEMON_H

#include "devices.h"
#include "mps_log.h"
#include "mps_protocol.h"

#include <poll.h>
#include <sys/types.h>

enum { MPS_MAX_PEERS = 128, MPS_LISTENERS = 2, MPS_ALL_CONTEXTS = MPS_MAX_CONTEXTS * DEVICES_MAX };

struct mps_server {
    pid_t pid; /* 0: there is no server */
    uid_t uid;
    int channel; /* -1 once it has been closed */
    bool ready;
    bool stopping;
    unsigned int expected; /* clients handed over that it has neither accepted nor refused yet */
    struct mps_settings settings;
    struct mps_process clients[MPS_MAX_CLIENTS];
    unsigned int client_count;
    struct mps_event contexts[MPS_ALL_CONTEXTS];
    unsigned int context_count;
};

enum mps_peer_state { PEER_NONE, PEER_NEW, PEER_INTERFACE, PEER_QUITTING, PEER_PENDING };

struct mps_peer {
    enum mps_peer_state state;
    int socket;
    pid_t pid; /* 0: in a PID namespace that the daemon does not see, as in another pod */
    uid_t uid;
    gid_t gid;
    int64_t deadline; /* of a new one's first message */
    bool told;        /* a pending one has been logged as such */
    struct mps_message hello;
};

struct mps_daemon {
    struct mps_log log;
    bool multiuser;
    int stop_signal; /* that has ended it; 0: none */
    bool quitting;
    int64_t quit_deadline; /* 0: none */
    int signals;
    int listeners[MPS_LISTENERS];
    struct inventory inventory;
    struct device devices[DEVICES_MAX];
    unsigned int device_count;
    struct mps_settings defaults;
    struct mps_server server;
    struct mps_peer peers[MPS_MAX_PEERS];
};

/* Milliseconds that only rise. */
int64_t mps_now(void);

/* mps_daemon.c. Returns the program's exit code. */
int mps_daemon_run(bool background, bool multiuser);

/* mps_servers.c */
bool mps_server_start(struct mps_daemon *daemon, uid_t uid, gid_t gid);
void mps_server_stop(struct mps_daemon *daemon);
void mps_server_receive(struct mps_daemon *daemon);
/* Takes note of a process that has ended. */
void mps_server_ended(struct mps_daemon *daemon, pid_t pid, int status);
bool mps_server_is_idle(const struct mps_server *server);
bool mps_server_hand_over(struct mps_daemon *daemon, struct mps_message *hello, int socket);
void mps_server_send_settings(struct mps_daemon *daemon);
void mps_server_terminate_client(struct mps_daemon *daemon, int32_t pid);

/* For a limit that was given by the device's UUID: whether it is remembered without effect. */
bool mps_ignores_uuid_limit(const struct mps_daemon *daemon, unsigned int device);

/* mps_peers.c */
void mps_peers_accept(struct mps_daemon *daemon);
void mps_peers_receive(struct mps_daemon *daemon);
/* Gives clients that wait a server, starting and ending servers as their users need. */
void mps_peers_serve_pending(struct mps_daemon *daemon);
/* Refuses clients that wait: those of one user, or all if every is set. */
void mps_peers_refuse(struct mps_daemon *daemon, uid_t uid, bool every);
void mps_peers_close(struct mps_daemon *daemon);

/* mps_commands.c. Lines of one command's answer; they go to the user interface and to the log. */
struct mps_answer {
    const struct mps_log *log;
    size_t length;
    char text[128 * 1024];
};
void mps_answer_line(struct mps_answer *answer, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* True if the interface is to be answered only when the daemon ends. */
bool mps_command(struct mps_daemon *daemon, uid_t user, const char *line, struct mps_answer *answer);

/* mps_reports.c */
void mps_report_processes(const struct mps_daemon *daemon, struct mps_answer *answer);
void mps_report_clients(const struct mps_daemon *daemon, struct mps_answer *answer);
void mps_report_device_clients(const struct mps_daemon *daemon, struct mps_answer *answer);
void mps_report_devices(const struct mps_daemon *daemon, const char *heading, bool csv, struct mps_answer *answer);

#endif
