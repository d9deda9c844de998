/** A person at a browser: a page of the tests, with one client library, open as one user. */
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core'
import { afterAll, afterEach } from 'vitest'
import type { State } from '../pages/state.ts'
import { chromiumPath } from './chromium.ts'
import type { Site } from './site.ts'
import { until } from './until.ts'

let browser: Promise<Browser> | null = null
const contexts: BrowserContext[] = []

afterEach(async () => {
  for (const context of contexts.splice(0)) await context.close()
})

afterAll(async () => {
  await (await browser)?.close()
  browser = null
})

export function launchBrowser(): Promise<Browser> {
  browser ??= chromium.launch({
    executablePath: chromiumPath(),
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--disable-dev-shm-usage',
    ],
  })
  return browser
}

export interface TabOptions {
  /** Who is logged in. */
  user?: string
  /** The page comes from another origin than the one it uploads to. */
  crossOrigin?: boolean
  /** With the options that the documents recommend for outages. */
  patient?: boolean
  /** With few parts or chunks at a time. */
  few?: boolean
}

export class Tab {
  readonly context: BrowserContext
  readonly #page: Page
  readonly #url: string

  private constructor(context: BrowserContext, page: Page, url: string) {
    this.context = context
    this.#page = page
    this.#url = url
  }

  /** @param name of the page, without `.page.ts` */
  static async open(
    site: Site,
    name: string,
    { user, crossOrigin = false, patient = false, few = false }: TabOptions = {},
  ): Promise<Tab> {
    const context = await (await launchBrowser()).newContext()
    contexts.push(context)
    if (user !== undefined) await context.addCookies([{ name: 'user', value: user, url: site.origin }])
    const page = await context.newPage()
    const query = new URLSearchParams({
      ...(crossOrigin && { server: site.origin }),
      ...(patient && { patient: '' }),
      ...(few && { few: '' }),
    })
    const url = `${crossOrigin ? site.otherOrigin : site.origin}/pages/${name}?${query}`
    await page.goto(url)
    return new Tab(context, page, url)
  }

  async choose(path: string): Promise<void> {
    await this.#page.setInputFiles('input[type=file]', path)
  }

  async reload(): Promise<void> {
    await this.#page.goto(this.#url)
  }

  async state(): Promise<State> {
    return (await this.#page.evaluate('window.state')) as State
  }

  /** Once the page was told that it is done, or that it is not going to be. */
  async outcome(): Promise<State> {
    await this.#page.waitForFunction('window.state.url !== null || window.state.error !== null', null, {
      timeout: 45_000,
      polling: 50,
    })
    return this.state()
  }

  /** The URL that the page was told, once its progress is at 100 %. */
  async finished(): Promise<string> {
    const { url, error } = await this.outcome()
    if (url === null) throw new Error(`the page shows a failure: ${error}`)
    // Libraries do not draw more often than some times a second.
    await until(async () => (await this.state()).percent === 100, 'a progress of 100 %', 5_000)
    return url
  }
}
