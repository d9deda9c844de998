/**
 * Plugins for Stryker that let it try a random sample of the mutants only (`scripts/stryker.ts`). The reporter hears the
 * plan of all mutants in Stryker's own process, draws and writes down the ids; the checker, in a process of its own, turns
 * down the others before they are run. Plain JavaScript, because Stryker's processes load it without a compiler.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, dirname, resolve } from 'node:path'

// Processes of Stryker change their working directory; the path is made absolute when the plugin is loaded.
const drawn = resolve(process.env.STRYKER_DRAWN ?? 'reports/drawn.json')

const notDrawn = 'not drawn'

/**
 * `size` of the mutants, one at random from each of `size` equal stretches of the sorted list: so every file, and every
 * region of a file, has its share.
 * @template Mutant
 * @param {readonly Mutant[]} mutants
 * @param {number} size
 * @param {number} seed
 * @returns {Mutant[]}
 */
export function draw(mutants, size, seed) {
  if (size >= mutants.length) return [...mutants]
  const next = mulberry32(seed)
  const step = mutants.length / size
  // Two neighbouring stretches may round to the same mutant when the step is small; then the later one takes the next.
  let last = -1
  return Array.from({ length: size }, (_, i) => {
    last = Math.max(last + 1, Math.floor((i + next()) * step))
    return mutants[last]
  }).filter((mutant) => mutant !== undefined)
}

/** @param {number} seed */
function mulberry32(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

function samplingReporter() {
  return {
    /** @param {{ mutantPlans: readonly { mutant: PlannedMutant }[] }} event */
    onMutationTestingPlanReady({ mutantPlans }) {
      const all = mutantPlans.map(({ mutant }) => mutant).filter(({ status }) => status !== 'Ignored')
      const sorted = all.toSorted((a, b) =>
        a.fileName < b.fileName ? -1 : a.fileName > b.fileName ? 1 : byPlace(a, b),
      )
      const chosen = draw(sorted, Number(process.env.STRYKER_SAMPLE), Number(process.env.STRYKER_SEED))
      mkdirSync(dirname(drawn), { recursive: true })
      writeFileSync(drawn, JSON.stringify({ mutants: all.length, ids: chosen.map(({ id }) => id) }))
      console.log(`${all.length} mutants, ${chosen.length} of them drawn with seed ${process.env.STRYKER_SEED}`)
    },
    /** @param {PlannedMutant} mutant */
    onMutantTested({ status, statusReason, fileName, mutatorName, location: { start } }) {
      if (status === 'Ignored' || statusReason === notDrawn) return
      const seconds = Math.round(process.uptime())
      console.log(`${seconds} s ${status} ${basename(fileName)}:${start.line}:${start.column} ${mutatorName}`)
    },
  }
}

/**
 * @typedef {{ line: number, column: number }} Position
 * @typedef {{ id: string, fileName: string, mutatorName: string, status?: string, statusReason?: string, location: { start: Position } }} PlannedMutant
 * @param {PlannedMutant} a
 * @param {PlannedMutant} b
 */
function byPlace(a, b) {
  const [first, second] = [a.location.start, b.location.start]
  return first.line - second.line || first.column - second.column || Number(a.id) - Number(b.id)
}

function samplingChecker() {
  /** @type {Set<string> | undefined} */
  let ids
  return {
    async init() {},
    /** @param {readonly { id: string }[]} mutants */
    async check(mutants) {
      ids ??= new Set(JSON.parse(readFileSync(drawn, 'utf8')).ids)
      const verdict = (/** @type {string} */ id) =>
        ids?.has(id) ? { status: 'passed' } : { status: 'compileError', reason: notDrawn }
      return Object.fromEntries(mutants.map(({ id }) => [id, verdict(id)]))
    },
    /** @param {readonly { id: string }[]} mutants */
    async group(mutants) {
      return [mutants.map(({ id }) => id)]
    },
  }
}

export const strykerPlugins = [
  { kind: 'Reporter', name: 'sample', factory: samplingReporter },
  { kind: 'Checker', name: 'sample', factory: samplingChecker },
]
