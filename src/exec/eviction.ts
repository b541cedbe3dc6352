/** Which idle instances make room for another function's. All or nothing, least recently used. */

export interface Candidate {
  readonly idleSinceMs: number
  readonly memoryMb: number
}

/**
 * The victims whose memory adds up to `needMb`, or none when all candidates together do not: half
 * an eviction would cost warm instances and gain nothing. The oldest go first; then those that
 * turn out not to be needed are spared, the most recently used first.
 */
export function chooseVictims<V extends Candidate>(candidates: V[], needMb: number): V[] {
  const oldestFirst = candidates.sort((a, b) => a.idleSinceMs - b.idleSinceMs)
  const victims: V[] = []
  let freedMb = 0
  for (const candidate of oldestFirst) {
    if (freedMb >= needMb) break
    victims.push(candidate)
    freedMb += candidate.memoryMb
  }
  if (freedMb < needMb) return []
  let spareMb = freedMb - needMb
  for (let index = victims.length - 1; index >= 0 && spareMb > 0; index -= 1) {
    const memoryMb = victims[index]?.memoryMb ?? 0
    if (memoryMb > spareMb) continue
    victims.splice(index, 1)
    spareMb -= memoryMb
  }
  return victims
}
