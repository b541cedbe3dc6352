/** Known bugs of Raft systems as changes of our sources. Numbers are those of the list's origin. */

/** Tests to be tried in this order, until one turns red. */
export type Suite = 'simulation' | 'conformance' | 'raft' | 'driver' | 'store' | 'install' | 'crash'

export interface Edit {
  readonly file: string
  readonly find: string
  readonly replace: string
}

export interface Mutation {
  readonly number: string
  readonly name: string
  readonly edits: readonly Edit[]
  readonly suites: readonly Suite[]
}

const core: readonly Suite[] = ['simulation', 'conformance', 'raft']

function one(
  number: string,
  name: string,
  suites: readonly Suite[],
  file: string,
  find: string,
  replace: string,
): Mutation {
  return { number, name, suites, edits: [{ file, find, replace }] }
}

const raft = 'src/raft'
const leader = `${raft}/role-leader.ts`

export const mutations: readonly Mutation[] = [
  one(
    '1',
    'a vote is not written before it is told',
    core,
    `${raft}/core.ts`,
    'entries.length > 0 || hard.term !== before.term || hard.vote !== before.vote',
    'entries.length > 0',
  ),
  one(
    '2',
    'an append is acknowledged before it is written',
    core,
    `${raft}/driver.ts`,
    'this.#route(ready.messages)\n    const',
    'this.#route([...ready.messages, ...ready.answers])\n    const',
  ),
  one(
    '2b',
    'a leader counts itself before it has written',
    core,
    leader,
    "state.send('MsgAppResp', state.id, { index: state.log.lastIndex })",
    'state.progress.get(state.id)?.acknowledged(state.log.lastIndex)',
  ),
  one(
    '3',
    'entries of older terms are committed by counting',
    core,
    leader,
    'index <= log.commit || log.term(index) !== state.term',
    'index <= log.commit',
  ),
  one(
    '4',
    'a leader begins without an entry of its term',
    core,
    leader,
    "  append(state, [{ kind: 'normal', bytes: noBytes }])\n  broadcastAppend",
    '  broadcastAppend',
  ),
  one(
    '5',
    'reads before the first commit of the term',
    core,
    leader,
    '  if (log.term(log.commit) !== state.term) return\n',
    '',
  ),
  one(
    '6',
    'rounds of reads share a number (etcd#20418)',
    core,
    `${raft}/readindex.ts`,
    'this.#round += 1',
    'this.#round = 1',
  ),
  one(
    '7',
    'a new leader changes members before it committed',
    core,
    leader,
    'state.pendingConfIndex = state.log.lastIndex',
    'state.pendingConfIndex = 0',
  ),
  one(
    '8',
    'two changes of members at a time',
    core,
    leader,
    '  if (state.pendingConfIndex > state.log.applied) return false\n',
    '',
  ),
  one(
    '9',
    'stands for election with a change not applied',
    core,
    `${raft}/role-election.ts`,
    ' || state.log.hasUnappliedConfChange()) return',
    ') return',
  ),
  one(
    '10',
    'learners count for the majority',
    core,
    leader,
    'const index = committedIndex(voters, votersOutgoing, id',
    'const index = committedIndex([...voters, ...state.conf.learners], votersOutgoing, id',
  ),
  {
    number: '11',
    name: 'a learner refuses its vote',
    suites: core,
    edits: [
      {
        file: `${raft}/role-election.ts`,
        find: 'import { votersOf }',
        replace: 'import { isVoter, votersOf }',
      },
      {
        file: `${raft}/role-election.ts`,
        find: 'if (mayVote && ',
        replace: 'if (mayVote && isVoter(state.conf, state.id) && ',
      },
    ],
  },
  one(
    '12',
    'next falls to match or below after a refusal',
    core,
    `${raft}/progress.ts`,
    'Math.max(this.match + 1, Math.min(rejected, guess + 1))',
    'Math.max(1, Math.min(rejected, guess + 1))',
  ),
  one(
    '13',
    'a stale refusal lowers match',
    core,
    `${raft}/progress.ts`,
    '      if (rejected <= this.match) return false\n',
    '      this.match = Math.min(this.match, rejected)\n',
  ),
  one(
    '14',
    'acknowledged indexes are not sorted (openraft#1802)',
    core,
    `${raft}/quorum.ts`,
    '  acked.sort((a, b) => a - b)\n',
    '',
  ),
  one(
    '15',
    'an acknowledgement of an earlier term counts',
    ['raft'],
    `${raft}/core.ts`,
    'if (isOfTerm && term < state.term) {',
    "if (isOfTerm && term < state.term && type !== 'MsgAppResp') {",
  ),
  one(
    '16',
    'a pre-vote raises the term',
    core,
    `${raft}/core.ts`,
    "if (type === 'MsgPreVote' || (type === 'MsgPreVoteResp' && !received.reject)) return true",
    "if (type === 'MsgPreVoteResp' && !received.reject) return true",
  ),
  one(
    '17',
    'the higher term of a refused pre-vote is ignored',
    ['raft'],
    `${raft}/core.ts`,
    "(type === 'MsgPreVoteResp' && !received.reject)) return true",
    "type === 'MsgPreVoteResp') return true",
  ),
  one(
    '18',
    'late pre-votes count as votes',
    core,
    `${raft}/role-candidate.ts`,
    "if (state.role === (isPre ? 'pre-candidate' : 'candidate')) countVote",
    "if (state.role !== 'candidate' ? isPre : true) countVote",
  ),
  one(
    '19',
    'a doubled append truncates below the commit',
    core,
    `${raft}/log.ts`,
    'entries.findIndex(({ index, term }) => this.term(index) !== term)',
    'entries.length > 0 ? 0 : -1',
  ),
  one(
    '20',
    "a heartbeat commits beyond the follower's log",
    core,
    leader,
    'Math.min(member.match, state.log.commit)',
    'state.log.commit',
  ),
  one(
    '21',
    'a late snapshot takes the state back',
    core,
    `${raft}/role-follower.ts`,
    'index <= log.commit || !isMember',
    '!isMember',
  ),
  one(
    '22',
    'only its report ends a snapshot (etcd#10308)',
    ['conformance'],
    leader,
    '  else if (member.match + 1 >= log.firstIndex) member.becomeReplicate()\n',
    '',
  ),
  one(
    '23',
    'a full window holds the commit back (etcd#14633)',
    core,
    leader,
    '  if (member.isPaused) return false\n',
    '  if (member.isPaused || member.inflights.isFull) return false\n',
  ),
  one(
    '24',
    'a follower behind the whole log gets nothing',
    core,
    leader,
    'if (logTerm === undefined) return sendSnapshot(state, to, member)',
    'if (logTerm === undefined) return false',
  ),
  one(
    '25',
    'records are read without their checksums',
    ['store', 'crash'],
    'src/store/log-records.ts',
    'record.length < headerBytes || view.getUint32(4, true) !== crc32c(record.subarray(sumFrom))',
    'record.length < headerBytes || (sumFrom < 0 && crc32c(record) === 0)',
  ),
  {
    number: '25b',
    name: 'a log that lacks entries is cut there',
    suites: ['store', 'crash'],
    edits: [
      {
        file: 'src/store/log-tree.ts',
        find: 'if (!isNext) throw new StartError(lacks(last + 1, segment.first - 1))',
        replace: 'if (!isNext) break',
      },
      {
        file: 'src/store/log-tree.ts',
        find: 'if (last < commit) throw new StartError(lacks(last + 1, commit))',
        replace: 'void commit',
      },
    ],
  },
  one(
    '26',
    'a snapshot is renamed without a sync of its directory',
    ['install', 'crash'],
    'src/store/snapshot-file.ts',
    '  renameSync(staged, path)\n  fsyncDirSync(dir)\n',
    '  renameSync(staged, path)\n',
  ),
  one(
    '27',
    'the applied index is in a transaction of its own',
    ['crash', 'simulation'],
    'src/store/db.ts',
    '      this.#tx.run(\n        `UPDATE meta',
    "      this.#db.run('COMMIT')\n      this.#db.run('BEGIN IMMEDIATE')\n" +
      '      this.#tx.run(\n        `UPDATE meta',
  ),
  one(
    '31',
    'a write goes on after a failed one ("fsyncgate")',
    ['simulation', 'store'],
    `${raft}/driver.ts`,
    '        } else this.#fail(error)\n',
    '        } else this.#write(ready, late)\n',
  ),
  one(
    '32',
    'the log is cut before the state is flushed',
    ['simulation'],
    `${raft}/tail.ts`,
    '    this.#machine.flush((error, durableIndex) => {\n',
    '    const flush = (done: (error: Error | undefined, index: number) => void) =>\n' +
      '      done(undefined, this.#machine.appliedIndex)\n' +
      '    flush((error, durableIndex) => {\n',
  ),
  one(
    '33',
    'elections do not tell what is committed',
    ['simulation', 'raft'],
    `${raft}/role-election.ts`,
    "  if (state.role === 'leader' || index <= state.log.commit) return\n",
    '  if (index >= 0) return\n',
  ),
  one(
    '34',
    'a vote does not ask for the newer log',
    ['simulation', 'raft'],
    `${raft}/role-election.ts`,
    'if (mayVote && state.log.isUpToDate(request.index, request.logTerm)) {',
    'if (mayVote) {',
  ),
  one(
    '35',
    'a leader without a majority leads on',
    ['conformance'],
    leader,
    '  if (!isActive) state.becomeFollower(state.term, 0)\n',
    '',
  ),
  one(
    '36',
    'what is applied during a write need not be on the disk',
    ['simulation'],
    `${raft}/log.ts`,
    'Math.min(stableIndex, this.#handed, this.#commit)',
    'this.#commit',
  ),
  one(
    '37',
    'what was applied is forgotten when it cannot be settled',
    ['crash'],
    'src/store/db.ts',
    '      if (this.#unsettled.length > 0) this.#applyAgain()\n',
    '      if (this.#unsettled.length > 0) this.#at = this.#settled\n',
  ),
  one(
    '38',
    'the journal is written over before it is home',
    ['store'],
    'src/store/journal.ts',
    'return this.#last[this.#active === 0 ? 1 : 0] <= this.#settled',
    'return true',
  ),
  one(
    '38b',
    'what went home is told before it is on the disk',
    ['store'],
    'src/store/log.ts',
    'this.#tree.write(write, number, error => {\n',
    'this.#journal.settle(number)\n    this.#tree.write(write, number, error => {\n',
  ),
  one(
    '39',
    'sectors are read without their checksums',
    ['store'],
    'src/store/journal-sectors.ts',
    "  if (view.getUint32(0, true) !== crc32c(bytes.subarray(sumFrom))) return 'damaged'\n",
    "  if (sumFrom < 0 && crc32c(bytes) === 0) return 'damaged'\n",
  ),
  one(
    '39b',
    'a damaged sector counts as torn',
    ['store'],
    'src/store/journal-sectors.ts',
    "if (sector === 'damaged') throw damaged(",
    "if (sector === 'damaged') return undefined\n  if (at < 0) throw damaged(",
  ),
  one(
    '39c',
    'a torn write counts as whole',
    ['store'],
    'src/store/journal-sectors.ts',
    'return isWhole ? { number, bytes } : undefined',
    'return isWhole || first.length > 0 ? { number, bytes } : undefined',
  ),
  one(
    '39d',
    'a journal that lacks a write is cut there',
    ['store'],
    'src/store/journal-sectors.ts',
    '  if (lastNumber > expected()) {\n',
    '  if (lastNumber < 0) {\n',
  ),
  one(
    '40',
    'LMDB is told of a write that it does not hold',
    ['store'],
    'src/store/log.ts',
    'this.#tree.write(write, number, error => {\n',
    'this.#tree.write(write, number + 1, error => {\n',
  ),
  one(
    '40b',
    'LMDB does not know how far the journal is in it',
    ['store'],
    'src/store/log-tree.ts',
    "put.push(['hard', encodeHard({ hardState, settled })])",
    "put.push(['hard', encodeHard({ hardState, settled: this.#settled ?? 0 })])",
  ),
  one(
    '40c',
    'numbers of torn writes are used again',
    ['store'],
    'src/store/journal-sectors.ts',
    '  return { writes, lastNumber }\n',
    '  return { writes, lastNumber: expected() - 1 }\n',
  ),
  one(
    '41',
    'what is replaced while it goes home is forgotten',
    ['store'],
    'src/store/log.ts',
    'this.#forgetBelow(Math.min(last + 1, this.#writtenFrom))',
    'this.#forgetBelow(last + 1)',
  ),
  one(
    '42',
    'entries leave before the disk knows them committed',
    ['store'],
    'src/store/log.ts',
    '    const bytes = encodeTurn(write)\n',
    '    this.#dropThrough = write.dropThrough\n    const bytes = encodeTurn(write)\n',
  ),
  one(
    '43',
    'the log is not cut while it keeps what might have left',
    ['driver'],
    `${raft}/tail.ts`,
    '    if (this.#outside() < this.#window.firstIndex) return\n',
    '    if (this.#outside() < this.#window.firstIndex) return\n' +
      '    if (this.#droppableIndex >= this.#log.firstIndex) return\n',
  ),
]
