/** The systemd unit that is shipped beside the executable. */
import { expect, test } from 'bun:test'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const unit = readFileSync(join(import.meta.dir, '../../packaging/fnd.service'), 'utf8')

function settingsOf(name: string): string[] {
  return [...unit.matchAll(new RegExp(`^${name}=(.*)$`, 'gm'))].map(([, value = '']) => value)
}

test('systemd finds no fault in the unit', async () => {
  const tool = Bun.which('systemd-analyze')
  if (tool === null) {
    console.log('systemd-analyze is not installed: the unit is not verified here')
    return
  }
  const folder = mkdtempSync(join(tmpdir(), 'fnd-unit-'))
  try {
    const path = join(folder, 'fnd.service')
    // The verifier asks for an executable that exists on this machine.
    writeFileSync(path, unit.replace(/^ExecStart=\S+/m, `ExecStart=${process.execPath}`))
    const child = Bun.spawn([tool, 'verify', '--man=no', path], { stdout: 'pipe', stderr: 'pipe' })
    const [code, text] = await Promise.all([child.exited, new Response(child.stderr).text()])
    expect({ code, faults: text.split('\n').filter(line => line.includes('fnd.service')) }).toEqual(
      {
        code: 0,
        faults: [],
      },
    )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})

test('the unit lets fnd do what the sandbox needs', () => {
  expect(settingsOf('Delegate')).toEqual(['yes'])
  expect(settingsOf('CapabilityBoundingSet').join(' ')).toContain('CAP_SYS_ADMIN')
  for (const name of ['RestrictNamespaces', 'MemoryDenyWriteExecute', 'ProtectControlGroups']) {
    expect(settingsOf(name)).toEqual([])
  }
})

test('the unit waits longer for an end than fnd does for running calls', () => {
  const page = readFileSync(join(import.meta.dir, '../../docs/configuration.md'), 'utf8')
  const drainS = Number(/FND_DRAIN_TIMEOUT.*?`(\d+)s`/.exec(page)?.[1])
  expect(Number(settingsOf('TimeoutStopSec')[0])).toBeGreaterThan(drainS)
})
