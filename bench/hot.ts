/**
 * Hot calls of a TypeScript hello: through fnd, through nginx that proxies to the same socket, and
 * on the socket itself. The sides take turns in each round, so that a noisy machine hits them all;
 * medians over the rounds are printed, and ratios to nginx.
 *
 * npm run bench:hot -- [--rounds N] [--seconds S]
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { BenchFnd, cpuUs, freePort, helloSource, median, table } from './fnd.ts'
import { type LoadResult, runLoad, type Target } from './load.ts'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '3' },
    connections: { type: 'string', default: '1,8,32,64,256,1000' },
  },
})
const rounds = Number(values.rounds)
const durationMs = Number(values.seconds) * 1000

interface Side {
  readonly name: string
  readonly target: Target
  readonly request: string
  /** Processes whose CPU is this side's cost, beside the function itself. */
  readonly pids: () => number[]
}

// The socket is also called directly, by more connections than fnd would make.
await using fnd = await BenchFnd.start({ FND_MAX_OPEN_FILES: '8192' })
const hello = await fnd.deploy('hello', helloSource)
const path = new URL(hello.invoke_url).pathname
const warm = await fetch(hello.invoke_url, { method: 'POST' })
if ((await warm.text()) !== 'hello world') throw new Error('the hello function does not answer')
const instance = (await fnd.describe(hello.fn_id)).instances[0]
if (instance === undefined) throw new Error('no hot instance to compare with')
const socket = `/proc/${instance.pid}/root/tmp/iofs/lsnr.sock`

const nginxPort = await freePort()
const nginxConf = join(fnd.dir, 'nginx.conf')
writeFileSync(
  nginxConf,
  `user root; worker_processes 1; daemon off; error_log stderr crit;
pid ${fnd.dir}/nginx.pid;
events { worker_connections 8192; }
http {
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path ${fnd.dir}/nginx-body; proxy_temp_path ${fnd.dir}/nginx-proxy;
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
await Bun.sleep(300)
const nginxWorker = Number(
  Bun.spawnSync(['pgrep', '-P', String(nginx.pid)])
    .stdout.toString()
    .split('\n')[0],
)

const requestTo = (where: string): string =>
  `POST ${where} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n`
const sides: readonly Side[] = [
  {
    name: 'fnd',
    target: { hostname: '127.0.0.1', port: fnd.port },
    request: requestTo(path),
    pids: () => [fnd.pid],
  },
  {
    name: 'nginx',
    target: { hostname: '127.0.0.1', port: nginxPort },
    request: requestTo('/'),
    pids: () => [nginx.pid, nginxWorker],
  },
  {
    name: 'direct',
    target: { unix: socket },
    request: requestTo('/call').replace('\r\n', '\r\nFn-Call-Id: 01BENCH00000000000000000000\r\n'),
    pids: () => [],
  },
]

interface Row extends LoadResult {
  readonly cpuUsPerCall: number
}

async function measure(side: Side, connections: number, rate?: number): Promise<Row> {
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

async function compare(title: string, connections: number, rate?: number): Promise<void> {
  const results = new Map<string, Row[]>(sides.map(side => [side.name, []]))
  for (let round = 0; round < rounds; round += 1) {
    for (const side of sides) {
      results.get(side.name)?.push(await measure(side, connections, rate))
    }
  }
  const of = (name: string, pick: (row: Row) => number): number =>
    median((results.get(name) ?? []).map(pick))
  console.log(`\n${title}`)
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
          'fnd/nginx',
          of('fnd', row => row.perSecond) / of('nginx', row => row.perSecond),
          of('fnd', row => row.p50Ms) / of('nginx', row => row.p50Ms),
          of('fnd', row => row.p99Ms) / of('nginx', row => row.p99Ms),
          of('fnd', row => row.cpuUsPerCall) / of('nginx', row => row.cpuUsPerCall),
          '',
        ]
      : [
          'fnd adds',
          '',
          of('fnd', row => row.p50Ms) - of('direct', row => row.p50Ms),
          of('fnd', row => row.p99Ms) - of('direct', row => row.p99Ms),
          '',
          '',
        ],
  ])
}

for (const connections of values.connections.split(',').map(Number)) {
  await compare(`closed loop, ${connections} connections`, connections)
}
await compare('open loop, 1,000 calls/s', 32, 1000)
const described = await fnd.describe(hello.fn_id)
console.log(`\ninstances of the function at the end: ${described.instances.length}`)
nginx.kill()
await nginx.exited
