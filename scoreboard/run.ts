/** Every case against every server, each in a fresh process and folder. */
import { Stage } from '../bench/processes.ts'
import type { Case } from './case.ts'
import { byteCases } from './cases-bytes.ts'
import { cleanupCases } from './cases-cleanup.ts'
import { crashCases } from './cases-crash.ts'
import { hostileCases } from './cases-hostile.ts'
import { resourceCases } from './cases-resources.ts'
import { s3Cases } from './cases-s3.ts'
import { type Contender, contenders } from './contenders.ts'
import { Failure, NotApplicable, type Result } from './outcome.ts'
import { content, type Settings, Subject } from './subject.ts'

export const cases: readonly Case[] = [
  ...[...crashCases, ...byteCases, ...s3Cases],
  ...[...cleanupCases, ...hostileCases, ...resourceCases],
]

/** Counted over all other cases. */
export const survival = {
  name: 'survival',
  title: 'No case ends the process, and a clean upload works after each',
} as const

export interface Row {
  readonly case: string
  readonly title: string
  readonly server: string
  readonly result: Result
}

export interface Plan {
  readonly contenders: readonly Contender[]
  readonly cases: readonly Case[]
  /** For the folders of the servers. */
  readonly directory: string
  /** Told of every result as it comes. */
  readonly tell: (row: Row) => void
}

export const everything = { contenders, cases } as const

export async function runScoreboard({ contenders, cases, directory, tell }: Plan): Promise<Row[]> {
  const rows: Row[] = []
  const keep = (of: Pick<Case, 'name' | 'title'>, server: string, result: Result) => {
    const row = { case: of.name, title: of.title, server, result }
    rows.push(row)
    tell(row)
  }
  for (const contender of contenders) {
    const obstacle = await reasonNotToRun(contender, directory)
    const casualties: string[] = []
    for (const each of cases) {
      const { result, casualty } = obstacle === null ? await runTwice(each, contender, directory) : leftOut(obstacle)
      if (casualty !== null) casualties.push(`${each.name}: ${casualty}`)
      keep(each, contender.name, result)
    }
    const survived: Result = casualties.length === 0 ? pass : { verdict: 'fail', reason: casualties.join('; ') }
    keep(survival, contender.name, obstacle === null ? survived : leftOut(obstacle).result)
  }
  return rows
}

interface Run {
  readonly result: Result
  /** What was wrong with the server after the case, beside its result. */
  readonly casualty: string | null
}

const pass: Result = { verdict: 'pass', reason: '' }

function leftOut(reason: string): Run {
  return { result: { verdict: 'n.a.', reason }, casualty: null }
}

/** A server that cannot do one clean upload is not tested: the fault may be anybody's. */
async function reasonNotToRun(contender: Contender, directory: string): Promise<string | null> {
  try {
    await withSubject(contender, directory, {}, async (subject) => {
      await subject.start()
      await cleanUpload(subject, 1)
    })
    return null
  } catch (error) {
    return `a clean upload does not work here: ${(error as Error).message}`
  }
}

async function withSubject<Value>(
  contender: Contender,
  directory: string,
  settings: Settings,
  work: (subject: Subject) => Promise<Value>,
): Promise<Value> {
  const stage = await Stage.open(directory, `score-${contender.name}`)
  const subject = await Subject.open(contender, stage, settings)
  try {
    return await work(subject)
  } finally {
    await subject.close()
    await stage.close()
  }
}

async function cleanUpload(subject: Subject, seed: number): Promise<void> {
  const data = content(700_001, seed)
  await subject.upload(data, `clean-${seed}.bin`)
  await subject.mustHave(data, 'after a clean upload')
}

/** A machine that is busy must not cost others a case: what fails for them must fail twice. Of ours, once is enough. */
async function runTwice(each: Case, contender: Contender, directory: string): Promise<Run> {
  const first = await runCase(each, contender, directory)
  if (contender.isOurs || (first.result.verdict !== 'fail' && first.casualty === null)) return first
  const second = await runCase(each, contender, directory)
  const casualty = first.casualty === null ? null : second.casualty
  if (first.result.verdict !== 'fail' || second.result.verdict !== 'pass') return { result: second.result, casualty }
  return { ...leftOut(`failed once, passed when it was repeated: ${first.result.reason}`), casualty }
}

async function runCase(each: Case, contender: Contender, directory: string): Promise<Run> {
  const why = each.unless?.(contender) ?? null
  if (why !== null) return leftOut(why)
  return withSubject(contender, directory, each.settings ?? {}, async (subject) => {
    try {
      await each.prepare?.(subject)
      await subject.start()
      const result = await resultOf(each, subject)
      return { result, casualty: await casualtyOf(each, subject) }
    } catch (error) {
      return { result: asResult(error), casualty: null }
    } finally {
      await each.restore?.(subject)
    }
  })
}

async function resultOf(each: Case, subject: Subject): Promise<Result> {
  try {
    await each.run(subject)
    return pass
  } catch (error) {
    return asResult(error)
  }
}

function asResult(error: unknown): Result {
  const { message } = error as Error
  if (error instanceof Failure) return { verdict: 'fail', reason: message }
  if (error instanceof NotApplicable) return { verdict: 'n.a.', reason: message }
  return { verdict: 'n.a.', reason: `the case itself broke: ${message}` }
}

async function casualtyOf(each: Case, subject: Subject): Promise<string | null> {
  if (subject.death !== null) return subject.death
  // It was closed, or has no room.
  if (!subject.isRunning || each.restore) return null
  if (subject.contender.storage === 's3') subject.s3.reset()
  return cleanUpload(subject, 99).then(
    () => null,
    (error: Error) => `a clean upload after it fails: ${error.message}`,
  )
}
