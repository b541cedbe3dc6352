/**
 * Hot calls of a TypeScript hello: through fnd, through nginx that proxies to the same socket, and
 * on the socket itself. The sides take turns in each round, so that a noisy machine hits them all;
 * medians over the rounds are printed, and ratios to nginx.
 *
 * npm run bench:hot -- [--rounds N] [--seconds S]
 */
import { parseArgs } from 'node:util'
import { BenchFnd, helloSource } from './fnd.ts'
import { compare, directSide, requestTo, type Side, startNginx } from './front.ts'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '3' },
    connections: { type: 'string', default: '1,8,32,64,256,1000' },
  },
})
const turns = { rounds: Number(values.rounds), durationMs: Number(values.seconds) * 1000 }

// The socket is also called directly, by more connections than fnd would make.
await using fnd = await BenchFnd.start({ FND_MAX_OPEN_FILES: '8192' })
// fnd may keep its calls on another instance, and must not end the one that the others call.
const hello = await fnd.deploy('hello', helloSource, ['--idle-timeout', '3600', '--memory', '512'])
const path = new URL(hello.invoke_url).pathname
const warm = await fetch(hello.invoke_url, { method: 'POST' })
if ((await warm.text()) !== 'hello world') throw new Error('the hello function does not answer')
const instance = (await fnd.describe(hello.fn_id)).instances[0]
if (instance === undefined) throw new Error('no hot instance to compare with')
const socket = `/proc/${instance.pid}/root/tmp/iofs/lsnr.sock`

await using nginx = await startNginx(fnd.dir, socket)
const subject: Side = {
  name: 'fnd',
  target: { hostname: '127.0.0.1', port: fnd.port },
  request: requestTo(path),
  pids: () => [fnd.pid],
}
const sides = [subject, nginx.side, directSide(socket)] as const
for (const connections of values.connections.split(',').map(Number)) {
  await compare(sides, turns, connections)
}
await compare(sides, turns, 32, 1000)
const described = await fnd.describe(hello.fn_id)
console.log(`\ninstances of the function at the end: ${described.instances.length}`)
