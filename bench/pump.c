/*
 * A closed loop of requests from one thread: what bench/pump.ts compiles and runs. HTTP/1.1 with
 * one request at a time per connection, or gRPC over HTTP/2 with `streams` at a time. The caller
 * makes the bytes of the requests; only stream ids and a counter in the body are filled in here,
 * so that the same few instructions drive every server that is compared.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
  IN_SIZE = 1 << 18,
  OUT_SIZE = 1 << 20,
  SLOTS = 1 << 12, /* requests under way of a connection, by stream id */
  FRAME_HEAD = 9,
  DATA = 0, HEADERS = 1, RESET = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW = 8,
  WINDOW_FIRST = 65535
};

/*
 * epoll_event as the kernel lays it out. The headers of libc pack it by an attribute that they hide
 * from TinyCC.
 */
#ifdef __x86_64__
#pragma pack(push, 1)
#endif
struct event {
  unsigned events;
  void *data;
};
#ifdef __x86_64__
#pragma pack(pop)
#endif

struct request {
  const unsigned char *bytes;
  int length;
};

/* All of what bench/pump.ts hands in and gets back, as one array of doubles. */
enum {
  P_GRPC, P_CONNECTIONS, P_STREAMS, P_WARM_S, P_RUN_S, P_COUNTER_FROM_END,
  R_COUNT, R_ERRORS, R_SECONDS, R_MAX_MS
};

struct connection {
  int fd, in_length, out_length, out_start, is_open, is_writing;
  int waiting;      /* requests that the window of the server has no room for */
  long window;      /* bytes of DATA that the server still takes */
  unsigned next_id; /* of streams: odd and rising */
  unsigned sent;
  double started[SLOTS];
  char has_data[SLOTS];
  unsigned char in[IN_SIZE], out[OUT_SIZE];
};

struct run {
  int is_grpc, streams, counter_from_end, is_counting, is_over, poller;
  /* The head of the first request fills the server's table of headers; later ones refer to it. */
  struct request greeting, first_head, next_head, body;
  unsigned *buckets;
  int buckets_max;
  double *parameters;
  unsigned long counter;
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static unsigned be32(const unsigned char *at) {
  return (unsigned)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
}

static void put32(unsigned char *at, unsigned value) {
  at[0] = value >> 24, at[1] = value >> 16, at[2] = value >> 8, at[3] = value;
}

static void fail(struct run *run, struct connection *c) {
  if (!c->is_open) return;
  c->is_open = 0;
  close(c->fd);
  if (!run->is_over) run->parameters[R_ERRORS] += 1;
}

static void watch(struct run *run, struct connection *c, int operation, unsigned events) {
  struct event event = {events, c};
  epoll_ctl(run->poller, operation, c->fd, (struct epoll_event *)&event);
}

static void append(struct connection *c, const unsigned char *bytes, int length) {
  if (c->out_length + length > OUT_SIZE) abort();
  memcpy(c->out + c->out_length, bytes, length);
  c->out_length += length;
}

static void flush(struct run *run, struct connection *c) {
  while (c->is_open && c->out_start < c->out_length) {
    int n = send(c->fd, c->out + c->out_start, c->out_length - c->out_start, MSG_NOSIGNAL);
    if (n > 0) c->out_start += n;
    else if (errno == EAGAIN) break;
    else return fail(run, c);
  }
  int is_writing = c->out_start < c->out_length;
  if (!is_writing) c->out_start = c->out_length = 0;
  if (is_writing == c->is_writing || !c->is_open) return;
  watch(run, c, EPOLL_CTL_MOD, EPOLLIN | (is_writing ? EPOLLOUT : 0));
  c->is_writing = is_writing;
}

/* Eight decimal digits, so that no two bodies are the same. */
static void number(struct run *run, struct connection *c) {
  unsigned long value = run->counter++;
  unsigned char *end = c->out + c->out_length - run->counter_from_end;
  for (int i = 1; i <= 8; i++, value /= 10) end[-i] = '0' + value % 10;
}

static void start(struct run *run, struct connection *c) {
  if (run->is_over) return;
  unsigned id = 1;
  if (run->is_grpc) {
    if (c->window < run->body.length) {
      c->waiting++;
      return;
    }
    c->window -= run->body.length - FRAME_HEAD;
    id = c->next_id, c->next_id += 2;
  }
  struct request head = c->sent++ == 0 ? run->first_head : run->next_head;
  append(c, head.bytes, head.length);
  if (run->is_grpc) put32(c->out + c->out_length - head.length + 5, id);
  append(c, run->body.bytes, run->body.length);
  if (run->is_grpc) put32(c->out + c->out_length - run->body.length + 5, id);
  number(run, c);
  c->started[id / 2 % SLOTS] = now();
  c->has_data[id / 2 % SLOTS] = 0;
}

static void answered(struct run *run, struct connection *c, unsigned id, int is_ok) {
  double ms = (now() - c->started[id / 2 % SLOTS]) * 1e3;
  if (run->is_counting) {
    if (is_ok) run->parameters[R_COUNT] += 1;
    else run->parameters[R_ERRORS] += 1;
    int bucket = ms * 100;
    run->buckets[bucket < run->buckets_max ? bucket : run->buckets_max - 1] += 1;
    if (ms > run->parameters[R_MAX_MS]) run->parameters[R_MAX_MS] = ms;
  }
  start(run, c);
}

/* How many bytes of a whole answer are there, or 0. */
static int http_answer(const unsigned char *in, int length) {
  unsigned char *end = memmem(in, length, "\r\n\r\n", 4);
  if (end == NULL) return 0;
  int head = end - in + 4;
  for (const unsigned char *at = in; at < end;) {
    if (strncasecmp((const char *)at, "content-length:", 15) == 0) {
      int all = head + atoi((const char *)at + 15);
      return all <= length ? all : 0;
    }
    unsigned char *next = memmem(at, end - at, "\r\n", 2);
    if (next == NULL) break;
    at = next + 2;
  }
  unsigned char *last = memmem(end, length - (end - in), "0\r\n\r\n", 5);
  return last == NULL ? 0 : last + 5 - in;
}

static int read_http(struct run *run, struct connection *c) {
  int used = http_answer(c->in, c->in_length);
  if (used > 0) answered(run, c, 1, memcmp(c->in, "HTTP/1.1 2", 10) == 0);
  return used;
}

static int read_frame(struct run *run, struct connection *c, const unsigned char *in, int length) {
  if (length < FRAME_HEAD) return 0;
  int size = in[0] << 16 | in[1] << 8 | in[2], type = in[3], flags = in[4];
  unsigned id = be32(in + 5) & 0x7fffffff;
  const unsigned char *payload = in + FRAME_HEAD;
  if (length < FRAME_HEAD + size) return 0;
  if ((type == SETTINGS || type == PING) && !(flags & 1)) {
    unsigned char head[FRAME_HEAD] = {0, 0, type == PING ? 8 : 0, type, 1};
    append(c, head, FRAME_HEAD);
    if (type == PING) append(c, payload, 8);
  } else if (type == WINDOW && id == 0) {
    c->window += be32(payload);
    int waiting = c->waiting;
    c->waiting = 0;
    while (waiting-- > 0) start(run, c);
  } else if (type == DATA) {
    /* A refusal has only headers. */
    if (size > 5) c->has_data[id / 2 % SLOTS] = 1;
  } else if (type == RESET) {
    answered(run, c, id, 0);
  } else if (type == HEADERS && flags & 1) {
    answered(run, c, id, c->has_data[id / 2 % SLOTS]);
  } else if (type == GOAWAY) {
    fail(run, c);
  }
  return FRAME_HEAD + size;
}

static void readable(struct run *run, struct connection *c) {
  int n = recv(c->fd, c->in + c->in_length, IN_SIZE - c->in_length, 0);
  if (n == 0 || (n < 0 && errno != EAGAIN)) return fail(run, c);
  if (n < 0) return;
  c->in_length += n;
  int at = 0, used;
  do {
    used = run->is_grpc ? read_frame(run, c, c->in + at, c->in_length - at)
                        : read_http(run, c);
    at += used;
  } while (used > 0 && at < c->in_length && c->is_open);
  memmove(c->in, c->in + at, c->in_length - at);
  c->in_length -= at;
  flush(run, c);
}

static struct connection *connected(struct run *run, int port) {
  struct connection *c = calloc(1, sizeof *c);
  struct sockaddr_in address = {
      .sin_family = AF_INET,
      .sin_port = htons(port),
      .sin_addr = {htonl(INADDR_LOOPBACK)},
  };
  int one = 1;
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  c->next_id = 1, c->window = WINDOW_FIRST, c->is_open = 1;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0) {
    fail(run, c);
    return c;
  }
  watch(run, c, EPOLL_CTL_ADD, EPOLLIN);
  append(c, run->greeting.bytes, run->greeting.length);
  for (int i = 0; i < run->streams; i++) start(run, c);
  flush(run, c);
  return c;
}

/* Where an array is, and how many elements it has. */
struct array {
  const void *at;
  long length;
};

static struct request request(struct array array) {
  return (struct request){array.at, array.length};
}

/*
 * `arrays`: ports (int), greeting, head of the first request, head of later ones, body, and buckets
 * (unsigned) that count latencies in steps of 10 us. Connections go to the ports in turn. Returns
 * after the warm-up and the run; not to be called twice in a process, since it does not tidy up.
 */
void pump(double *parameters, const struct array *arrays) {
  const int *ports = arrays[0].at;
  struct run run = {
      .is_grpc = parameters[P_GRPC] != 0,
      .streams = parameters[P_STREAMS],
      .counter_from_end = parameters[P_COUNTER_FROM_END],
      .poller = epoll_create1(0),
      .greeting = request(arrays[1]),
      .first_head = request(arrays[2]),
      .next_head = request(arrays[3]),
      .body = request(arrays[4]),
      .buckets = (unsigned *)arrays[5].at,
      .buckets_max = arrays[5].length,
      .parameters = parameters,
      .counter = getpid() % 1000 * 100000ul,
  };
  int connections = parameters[P_CONNECTIONS];
  for (int i = 0; i < connections; i++) connected(&run, ports[i % arrays[0].length]);
  double from = now() + parameters[P_WARM_S], until = from + parameters[P_RUN_S];
  struct event events[256];
  for (;;) {
    int n = epoll_wait(run.poller, (struct epoll_event *)events, 256, 10);
    double at = now();
    if (!run.is_counting && at >= from) run.is_counting = 1, from = at;
    if (at >= until) break;
    for (int i = 0; i < n; i++) {
      struct connection *c = events[i].data;
      if (c->is_open && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) readable(&run, c);
      if (c->is_open && events[i].events & EPOLLOUT) flush(&run, c);
    }
  }
  parameters[R_SECONDS] = now() - from;
}
