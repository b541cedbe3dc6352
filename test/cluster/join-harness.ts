/** A member that takes nodes in, with a real listener and files of its own. */
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Authority } from '../../src/cluster/authority.ts'
import type { JoinOptions, JoinStep } from '../../src/cluster/join-client.ts'
import { JoinServer, type JoinServerOptions, type Leader } from '../../src/cluster/join-server.ts'
import type { JoinRequest } from '../../src/cluster/join-words.ts'
import { type PeerSettings, startPeer, type TestPeer } from './harness.ts'

export interface JoinMember extends TestPeer {
  readonly authority: Authority
  readonly server: JoinServer
  readonly requests: JoinRequest[]
  leader: Leader
  stop(): void
}

export interface MemberSettings {
  readonly clusterId?: string
  readonly nodeId?: number
  readonly authority?: Authority
  readonly join?: Partial<JoinServerOptions>
  readonly peer?: Partial<PeerSettings>
}

export function tempDir(): string {
  return mkdtempSync(join(tmpdir(), 'fnd-cluster-'))
}

export async function firstAuthority(clusterId = 'test', nodeId = 1): Promise<Authority> {
  const wallMs = () => Date.now()
  return await Authority.open({ dataDir: tempDir(), clusterId, nodeId, wallMs, isFirst: true })
}

export async function startMember(settings: MemberSettings = {}): Promise<JoinMember> {
  const { clusterId = 'test', nodeId = 1 } = settings
  const authority = settings.authority ?? (await firstAuthority(clusterId, nodeId))
  const requests: JoinRequest[] = []
  const server = new JoinServer({
    ...{ clusterId, authority, wallMs: () => Date.now(), addresses: () => [] },
    leader: () => member.leader,
    propose: async request => {
      requests.push(request)
      return { nodeId: 10 + requests.length, nodes: [{ id: 1 }] }
    },
    secrets: async () => ({ adminToken: 'admin', secretsKey: new Uint8Array([1, 2, 255]) }),
    onPending: () => undefined,
    onBug: error => member.bugs.push(error),
    ...settings.join,
  })
  const peer = await startPeer({
    ...settings.peer,
    ...{ clusterId, nodeId, authority: authority.pair },
    events: { joiner: (link, hello) => server.serve(link, hello), ...settings.peer?.events },
  })
  const stop = () => {
    server.stop()
    peer.peers.stop()
  }
  const member: JoinMember = {
    ...peer,
    authority,
    server,
    requests,
    leader: { kind: 'self' },
    stop,
  }
  return member
}

export function joinOptions(
  ports: readonly number[],
  more: Partial<JoinOptions> = {},
): JoinOptions & { readonly steps: JoinStep[] } {
  const steps: JoinStep[] = []
  return {
    targets: ports.map(port => ({ host: '127.0.0.1', port })),
    ...{ token: '', uuid: 'u-1', name: 'second', apiUrl: 'http://127.0.0.1:8090' },
    ...{ address: '127.0.0.1:8091', version: '0.1.0', commandVersion: 2 },
    ...{ wallMs: () => Date.now(), onProgress: step => steps.push(step), patienceMs: 20_000 },
    ...more,
    steps,
  }
}
