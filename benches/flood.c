/* Requests at even distances over a pool of connections, whether or not there are answers: the load of overload.py, at a fraction
 * of the CPU that Python takes from the server on the same cores.
 *
 *     cc -O2 -o flood benches/flood.c && ./flood 127.0.0.1 PORT RATE SECONDS CONNECTIONS '"source": "..."'
 *
 * Prints a line for each request: its status and the microseconds that the answer took. -1: no connection was free. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 65536, HEAD = 8192 };

struct client {
  int number, used, open;
  double sent;
  char answer[HEAD];
  long left; /* Of the body, once the head is there. */
  int status, closes;
};

static struct sockaddr_in address;
static int poll_set, free_count, done;
static int *free_list;
static struct client *clients;
static int statuses[1 << 22];
static int micros[1 << 22];

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void note(int status, double seconds) {
  if (done == sizeof statuses / sizeof *statuses) return;
  statuses[done] = status;
  micros[done++] = (int)(seconds * 1e6);
}

static void join(int at) {
  struct client *client = &clients[at];
  client->number = socket(AF_INET, SOCK_STREAM, 0);
  if (client->number < 0 || connect(client->number, (struct sockaddr *)&address, sizeof address)) fail("connect");
  struct epoll_event event = {.events = EPOLLIN, .data.u32 = (unsigned)at};
  if (epoll_ctl(poll_set, EPOLL_CTL_ADD, client->number, &event)) fail("epoll_ctl");
  client->used = 0;
  client->sent = 0;
  client->left = -1;
  client->open = 1;
  free_list[free_count++] = at;
}

static void leave(int at) {
  for (int place = 0; place < free_count; place++)
    if (free_list[place] == at) free_list[place] = free_list[--free_count];
  close(clients[at].number);
  join(at);
}

/* Reads what has come. Bodies are counted, not kept. */
static void take(int at) {
  struct client *client = &clients[at];
  static char more[MOST];
  int keeps = client->left < 0;
  ssize_t count = keeps ? recv(client->number, client->answer + client->used, (size_t)(HEAD - 1 - client->used), MSG_DONTWAIT)
                        : recv(client->number, more, sizeof more, MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    if (client->sent != 0) note(0, now() - client->sent);
    leave(at);
    return;
  }
  if (keeps) {
    client->used += (int)count;
    client->answer[client->used] = 0;
    char *end = strstr(client->answer, "\r\n\r\n");
    if (!end) {
      if (client->used == HEAD - 1) fail("a head that is too long");
      return;
    }
    char *length = strcasestr(client->answer, "content-length: ");
    if (!length || length > end) fail("an answer without a length");
    *end = 0;
    client->status = atoi(client->answer + 9);
    client->closes = strcasestr(client->answer, "connection: close") != NULL;
    client->left = atol(length + 16) - (client->used - (end + 4 - client->answer));
  } else {
    client->left -= count;
  }
  if (client->left > 0) return;
  note(client->status, now() - client->sent);
  client->used = 0;
  client->left = -1;
  client->sent = 0;
  if (client->closes) {
    leave(at);
  } else {
    free_list[free_count++] = at;
  }
}

/* Takes what comes until a time. A sleep is as exact as the kernel's timers. */
static void until(double end) {
  struct epoll_event events[256];
  for (;;) {
    double wait = end - now();
    struct timespec timeout = {0};
    if (wait > 0) {
      timeout.tv_sec = (time_t)wait;
      timeout.tv_nsec = (long)((wait - (double)timeout.tv_sec) * 1e9);
    }
    int count = epoll_pwait2(poll_set, events, 256, &timeout, NULL);
    if (count < 0 && errno != EINTR) fail("epoll_pwait2");
    for (int at = 0; at < count; at++) take((int)events[at].data.u32);
    if (wait <= 0) return;
  }
}

int main(int argc, char **argv) {
  if (argc != 7) {
    fprintf(stderr, "flood HOST PORT RATE SECONDS CONNECTIONS CELLS\n");
    return 2;
  }
  address.sin_family = AF_INET;
  address.sin_port = htons((unsigned short)atoi(argv[2]));
  if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1) fail("the address");
  double rate = atof(argv[3]), seconds = atof(argv[4]);
  int connections = atoi(argv[5]);
  poll_set = epoll_create1(0);
  free_list = calloc((size_t)connections, sizeof *free_list);
  clients = calloc((size_t)connections, sizeof *clients);
  for (int at = 0; at < connections; at++) join(at);
  static char body[MOST], request[MOST + HEAD];
  double started = now();
  long all = (long)(rate * seconds);
  for (long number = 0; number < all; number++) {
    until(started + (double)number / rate);
    if (free_count == 0) {
      note(-1, 0);
      continue;
    }
    /* Equal rows would be computed once, so each has an id of its own. */
    int size = snprintf(body, sizeof body, "{\"rows\":[{\"_id\":\"flood-%ld\",%s}]}", number, argv[6]);
    if (size >= (int)sizeof body) fail("a row that is too long");
    int length = snprintf(request, sizeof request,
                          "POST /v1/rows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                          size, body);
    struct client *client = &clients[free_list[--free_count]];
    client->sent = now();
    /* The server may have closed it; the end is read then. */
    if (send(client->number, request, (size_t)length, MSG_NOSIGNAL) != length && errno != EPIPE && errno != ECONNRESET) fail("send");
  }
  printf("%.6f %d\n", now() - started, done);
  until(now() + 3);
  for (int at = 0; at < done; at++) printf("%d %d\n", statuses[at], micros[at]);
  return 0;
}
