/*
 * A switch of Ethernet whose every link, in each direction by itself, can lose, delay and reorder
 * packets: what switch.ts compiles and runs. Ports are TAP devices, so that the machines behind
 * them use the kernel's own TCP, and all of them vanish with this process. Port 0 and up have the
 * hardware addresses 02:00:00:00:00:00 and up.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { PORTS_MAX = 32, FRAME_MAX = 10240, DELAYED_MAX = 20000, BURST_MAX = 64 };

struct link {
  double loss; /* 1 is a cut */
  double delay_ms, jitter_ms;
};

struct delayed {
  double due_ms;
  int port, length;
  unsigned char *frame;
};

static struct link links[PORTS_MAX][PORTS_MAX];
/* A binary heap by `due_ms`. */
static struct delayed heap[DELAYED_MAX];
static int heap_length, ports[PORTS_MAX], ports_length;
static unsigned long long seed = 88172645463325252ull;

static double chance(void) {
  seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
  return (seed >> 11) / 9007199254740992.0;
}

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void swap(int a, int b) {
  struct delayed kept = heap[a];
  heap[a] = heap[b], heap[b] = kept;
}

static void delay(struct delayed item) {
  int at = heap_length++;
  heap[at] = item;
  for (; at > 0 && heap[at].due_ms < heap[(at - 1) / 2].due_ms; at = (at - 1) / 2)
    swap(at, (at - 1) / 2);
}

static void deliver_first(void) {
  /* A machine that is gone takes nothing; nobody waits for the packet. */
  if (write(ports[heap[0].port], heap[0].frame, heap[0].length) < 0) {}
  free(heap[0].frame);
  heap[0] = heap[--heap_length];
  for (int at = 0;;) {
    int least = at;
    for (int child = 2 * at + 1; child <= 2 * at + 2 && child < heap_length; child++)
      if (heap[child].due_ms < heap[least].due_ms) least = child;
    if (least == at) break;
    swap(at, least), at = least;
  }
}

static void forward(int from, int to, const unsigned char *frame, int length, double at_ms) {
  struct link *link = &links[from][to];
  if (link->loss > 0 && (link->loss >= 1 || chance() < link->loss)) return;
  if (link->delay_ms <= 0 && link->jitter_ms <= 0) {
    if (write(ports[to], frame, length) < 0) {}
    return;
  }
  if (heap_length == DELAYED_MAX) return;
  unsigned char *copy = malloc(length);
  memcpy(copy, frame, length);
  double due_ms = at_ms + link->delay_ms + link->jitter_ms * chance();
  delay((struct delayed){due_ms, to, length, copy});
}

static void receive(int from, double at_ms) {
  static unsigned char frame[FRAME_MAX];
  for (int i = 0; i < BURST_MAX; i++) {
    int length = read(ports[from], frame, FRAME_MAX);
    if (length < 14) return;
    int is_single = frame[0] == 2 && frame[5] < ports_length;
    for (int to = 0; to < ports_length; to++)
      if (is_single ? to == frame[5] : to != from) forward(from, to, frame, length, at_ms);
  }
}

/* Lines `from to loss delay_ms jitter_ms`. 0 at the end of the input. */
static int command(void) {
  static char text[4096];
  static int length;
  int n = read(0, text + length, sizeof text - 1 - length);
  if (n <= 0) return 0;
  text[length += n] = 0;
  char *line = text, *end;
  for (; (end = strchr(line, '\n')) != NULL; line = end + 1) {
    int from, to;
    struct link link;
    int found = sscanf(line, "%d %d %lf %lf %lf", &from, &to, &link.loss, &link.delay_ms,
                       &link.jitter_ms);
    if (found == 5 && from < PORTS_MAX && to < PORTS_MAX) links[from][to] = link;
  }
  length -= line - text;
  memmove(text, line, length);
  return 1;
}

static int opened(const char *prefix, int port) {
  struct ifreq request;
  memset(&request, 0, sizeof request);
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  snprintf(request.ifr_name, IFNAMSIZ, "%s%d", prefix, port);
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
  return fd >= 0 && ioctl(fd, TUNSETIFF, &request) == 0 ? fd : -1;
}

/* Runs until the end of the standard input. 1: a device cannot be made. */
int run_switch(const char *prefix, int length, int first_seed) {
  struct pollfd polled[PORTS_MAX + 1];
  ports_length = length;
  seed += (unsigned long long)first_seed * 2654435761u;
  for (int i = 0; i < length; i++) {
    ports[i] = opened(prefix, i);
    if (ports[i] < 0) return 1;
    polled[i] = (struct pollfd){.fd = ports[i], .events = POLLIN};
  }
  polled[length] = (struct pollfd){.fd = 0, .events = POLLIN};
  puts("ready");
  fflush(stdout);
  for (;;) {
    double wait_ms = heap_length > 0 ? heap[0].due_ms - now_ms() : 1000;
    poll(polled, length + 1, wait_ms < 0 ? 0 : wait_ms < 1 ? 1 : (int)wait_ms);
    double at_ms = now_ms();
    while (heap_length > 0 && heap[0].due_ms <= at_ms) deliver_first();
    if (polled[length].revents && !command()) return 0;
    for (int i = 0; i < length; i++)
      if (polled[i].revents & POLLIN) receive(i, at_ms);
  }
}
