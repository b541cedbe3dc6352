/** A network namespace of its own, which to this one is another machine. Needs root and `ip`. */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import type { Line, Spec } from './remote-node.ts'

function ip(...words: readonly string[]): void {
  const { status, stderr } = spawnSync('ip', words, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`ip ${words.join(' ')}: ${stderr}`)
}

export interface OtherMachine {
  readonly name: string
  /** Of this side and of the other. */
  readonly ourAddress: string
  readonly theirAddress: string
  /** Pulls the cable, or puts it back. */
  cable(state: 'up' | 'down'): void
  remove(): void
}

export function makeMachine(): OtherMachine {
  const name = `fnd-${process.pid}`
  const net = `10.231.${process.pid % 250}`
  const [ourAddress, theirAddress] = [`${net}.1`, `${net}.2`]
  const [ourLink, theirLink] = [`fa${process.pid}`, `fb${process.pid}`]
  ip('netns', 'add', name)
  ip('link', 'add', ourLink, 'type', 'veth', 'peer', 'name', theirLink)
  ip('link', 'set', theirLink, 'netns', name)
  ip('addr', 'add', `${ourAddress}/24`, 'dev', ourLink)
  ip('link', 'set', ourLink, 'up')
  ip('-n', name, 'addr', 'add', `${theirAddress}/24`, 'dev', theirLink)
  ip('-n', name, 'link', 'set', theirLink, 'up')
  ip('-n', name, 'link', 'set', 'lo', 'up')
  const cable = (state: 'up' | 'down') => ip('-n', name, 'link', 'set', theirLink, state)
  return { name, ourAddress, theirAddress, cable, remove: () => ip('netns', 'del', name) }
}

export interface Remote {
  readonly lines: Line[]
  /** The last line, once it has ended; undefined when it was killed before it said anything. */
  readonly done: Promise<Line | undefined>
  kill(): void
}

/** Runs a node's part over there, in a process of its own. */
export function runThere(machine: OtherMachine, spec: Spec): Remote {
  const script = join(import.meta.dir, 'remote-node.ts')
  const words = ['ip', 'netns', 'exec', machine.name, process.execPath, script]
  const child = Bun.spawn([...words, JSON.stringify(spec)], { stdout: 'pipe', stderr: 'inherit' })
  const lines: Line[] = []
  const read = async () => {
    let rest = ''
    const decoder = new TextDecoder()
    for await (const chunk of child.stdout) {
      const parts = (rest + decoder.decode(chunk, { stream: true })).split('\n')
      rest = parts.pop() ?? ''
      for (const part of parts) lines.push(JSON.parse(part))
    }
    return lines.at(-1)
  }
  return { lines, done: read(), kill: () => child.kill() }
}
