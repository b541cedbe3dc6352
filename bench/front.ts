/** Fronts of one hello function, measured in turns: what the benches of hot calls share. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { cpuUs, freePort, median, table } from './fnd.ts'
import { type LoadResult, runLoad, type Target } from './load.ts'

export interface Side {
  readonly name: string
  readonly target: Target
  readonly request: string
  /** Processes whose CPU is this side's cost, beside the function itself. */
  readonly pids: () => number[]
}

export interface Turns {
  readonly rounds: number
  readonly durationMs: number
}

export const requestTo = (where: string): string =>
  `POST ${where} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n`

export interface Nginx extends AsyncDisposable {
  readonly side: Side
}

/** nginx that proxies to the function's socket. Its files are in `dir`. */
export async function startNginx(dir: string, socket: string): Promise<Nginx> {
  const nginxPort = await freePort()
  const nginxConf = join(dir, 'nginx.conf')
  writeFileSync(
    nginxConf,
    `user root; worker_processes 1; daemon off; error_log stderr crit;
  pid ${dir}/nginx.pid;
  events { worker_connections 8192; }
  http {
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path ${dir}/nginx-body; proxy_temp_path ${dir}/nginx-proxy;
    upstream hello { server unix:${socket}; keepalive 1024; keepalive_requests 1000000000; }
    server {
      listen 127.0.0.1:${nginxPort} backlog=4096;
      location / {
        proxy_pass http://hello/call; proxy_http_version 1.1; proxy_set_header Connection "";
        proxy_set_header Fn-Call-Id 01BENCH00000000000000000000;
      }
    }
  }
  `,
  )
  const nginx = Bun.spawn(['nginx', '-c', nginxConf], { stdout: 'inherit', stderr: 'inherit' })
  const nginxWorker = await childOf(nginx.pid)
  await Bun.sleep(300)
  return {
    side: {
      name: 'nginx',
      target: { hostname: '127.0.0.1', port: nginxPort },
      request: requestTo('/'),
      pids: () => [nginx.pid, nginxWorker],
    },
    async [Symbol.asyncDispose]() {
      nginx.kill()
      await nginx.exited
    },
  }
}

/** Calls of the socket itself. */
export function directSide(socket: string): Side {
  return {
    name: 'direct',
    target: { unix: socket },
    request: requestTo('/call').replace('\r\n', '\r\nFn-Call-Id: 01BENCH00000000000000000000\r\n'),
    pids: () => [],
  }
}

interface Row extends LoadResult {
  readonly cpuUsPerCall: number
}

async function measure(side: Side, durationMs: number, connections: number, rate?: number) {
  const before = side.pids().reduce((sum, pid) => sum + cpuUs(pid), 0)
  const result = await runLoad({
    target: side.target,
    request: side.request,
    connections,
    durationMs,
    ...(rate === undefined ? {} : { rate }),
  })
  const spentUs = side.pids().reduce((sum, pid) => sum + cpuUs(pid), 0) - before
  return { ...result, cpuUsPerCall: spentUs / (result.perSecond * ((durationMs + 500) / 1000)) }
}

/** Prints the first side beside the others, of which one is nginx and one the socket itself. */
export async function compare(
  sides: readonly [Side, ...Side[]],
  { rounds, durationMs }: Turns,
  connections: number,
  rate?: number,
): Promise<void> {
  const subject = sides[0].name
  const results = new Map<string, Row[]>(sides.map(side => [side.name, []]))
  for (let round = 0; round < rounds; round += 1) {
    for (const side of sides) {
      results.get(side.name)?.push(await measure(side, durationMs, connections, rate))
    }
  }
  const of = (name: string, pick: (row: Row) => number): number =>
    median((results.get(name) ?? []).map(pick))
  const pace = rate === undefined ? 'closed loop' : `open loop, ${rate} calls/s`
  console.log(`\n${pace}, ${connections} connections`)
  table([
    ['', 'calls/s', 'p50 ms', 'p99 ms', 'front CPU µs/call', 'errors'],
    ...sides.map(({ name }) => [
      name,
      of(name, row => row.perSecond),
      of(name, row => row.p50Ms),
      of(name, row => row.p99Ms),
      name === 'direct' ? '-' : of(name, row => row.cpuUsPerCall),
      of(name, row => row.errors),
    ]),
    rate === undefined
      ? [
          `${subject}/nginx`,
          of(subject, row => row.perSecond) / of('nginx', row => row.perSecond),
          of(subject, row => row.p50Ms) / of('nginx', row => row.p50Ms),
          of(subject, row => row.p99Ms) / of('nginx', row => row.p99Ms),
          of(subject, row => row.cpuUsPerCall) / of('nginx', row => row.cpuUsPerCall),
          '',
        ]
      : [
          `${subject} adds`,
          '',
          of(subject, row => row.p50Ms) - of('direct', row => row.p50Ms),
          of(subject, row => row.p99Ms) - of('direct', row => row.p99Ms),
          '',
          '',
        ],
  ])
}

async function childOf(pid: number): Promise<number> {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    const { stdout } = Bun.spawnSync(['pgrep', '-P', String(pid)])
    const child = Number(stdout.toString().split('\n')[0])
    if (child > 0) return child
    await Bun.sleep(20)
  }
  throw new Error(`process ${pid} started no other`)
}
