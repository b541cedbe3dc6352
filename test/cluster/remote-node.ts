/** What runs on the other machine of other-machine.ts: one attempt, told in lines of JSON. */
import { type Dialed, dial } from '../../src/cluster/connection.ts'
import { protocolMax, protocolMin } from '../../src/cluster/hello.ts'
import {
  type JoinOptions,
  type JoinResult,
  type JoinStep,
  joinCluster,
} from '../../src/cluster/join-client.ts'
import type { Credentials } from '../../src/cluster/transport.ts'
import { FndError } from '../../src/errors.ts'
import { startPeer } from './harness.ts'

export type Spec =
  | { readonly kind: 'join'; readonly options: Omit<JoinOptions, 'wallMs' | 'onProgress'> }
  | {
      readonly kind: 'dial'
      readonly address: string
      readonly own: string
      readonly credentials: unknown
    }
  | { readonly kind: 'serve'; readonly address: string; readonly credentials: unknown }

export type Line =
  | { readonly kind: 'step'; readonly step: JoinStep }
  | { readonly kind: 'joined'; readonly result: JoinResult }
  | { readonly kind: 'failed'; readonly code: string; readonly message: string }
  | { readonly kind: 'listening'; readonly port: number }
  | { readonly kind: 'dialed'; readonly ok: boolean; readonly reason: string }

function tell(line: Line): void {
  console.log(JSON.stringify(line))
}

async function run(spec: Spec): Promise<void> {
  const wallMs = () => Date.now()
  if (spec.kind === 'join') {
    const onProgress = (step: JoinStep) => tell({ kind: 'step', step })
    tell({ kind: 'joined', result: await joinCluster({ ...spec.options, wallMs, onProgress }) })
    return
  }
  const credentials = spec.credentials as Credentials
  if (spec.kind === 'serve') {
    // Its authority is not used: it has its certificate.
    const authority = { certificate: '', key: '' }
    const advertise = (port: number) => `${spec.address}:${port}`
    const identity = { authority, nodeId: 2, credentials }
    const peer = await startPeer({ ...identity, host: '0.0.0.0', advertise })
    tell({ kind: 'listening', port: peer.peers.port })
    return await new Promise(() => undefined)
  }
  const numbers = { nodeId: 2, groupId: 1, commandVersion: 2, protocolMin, protocolMax }
  const texts = { clusterId: 'test', incarnation: 'x', version: '0.1.0', address: spec.own }
  const self = { credentials: () => credentials, wallMs, hello: () => ({ ...numbers, ...texts }) }
  const dialed: Dialed = await dial(self, {
    ...{ address: spec.address, nodeId: 1, purpose: 'raft' },
    onReady: link => {
      link.end = { frame: () => undefined, closed: () => undefined }
    },
  })
  tell({ kind: 'dialed', ok: dialed.ok, reason: dialed.ok ? '' : dialed.reason })
}

await run(JSON.parse(process.argv[2] ?? '')).catch(error => {
  if (!(error instanceof FndError)) throw error
  tell({ kind: 'failed', code: error.code, message: error.message })
})
process.exit()
